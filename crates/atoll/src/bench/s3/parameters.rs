//! What is measured, and what is refused beforehand. Two runs with equal parameters can be
//! compared.

use std::{collections::BTreeMap, fmt, str::FromStr};

use clap::ValueEnum;
use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// One kind of request, or several mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Whole objects under new keys.
    Put,
    /// Whole objects.
    Get,
    /// A part of an object, somewhere within.
    Range,
    /// Pages of a thousand keys, of the objects that `get` gets.
    List,
    Delete,
    /// Two clients put each key with `If-None-Match: *`; one of them must be refused.
    PutIfNoneMatch,
    /// Four clients at each key put with `If-Match` and the ETag that they know.
    PutIfMatch,
    /// As `--mix` says.
    Mixed,
}

impl Operation {
    pub fn name(self) -> String {
        self.to_possible_value().expect("none is hidden").get_name().to_owned()
    }
}

/// How often each operation comes among all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mix(BTreeMap<Operation, u32>);

impl Mix {
    pub fn draw(&self, rng: &mut StdRng) -> Operation {
        let sum: u32 = self.0.values().sum();
        let mut drawn = rng.random_range(0..sum);
        for (operation, share) in &self.0 {
            match drawn.checked_sub(*share) {
                Some(rest) => drawn = rest,
                None => return *operation,
            }
        }
        unreachable!("less than the sum was drawn")
    }

    pub fn has(&self, operation: Operation) -> bool {
        self.0.contains_key(&operation)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares: Vec<String> =
            self.0.iter().map(|(operation, share)| format!("{}={share}", operation.name())).collect();
        f.write_str(&shares.join(","))
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares = BTreeMap::new();
        for part in text.split(',') {
            let (name, share) = part.split_once('=').ok_or_else(|| format!("{part:?} is not like get=70"))?;
            let operation = Operation::from_str(name.trim(), false)
                .ok()
                .filter(|operation| *operation != Operation::Mixed)
                .ok_or_else(|| format!("{name:?} can't be mixed in"))?;
            let share: u16 = share
                .trim()
                .parse()
                .map_err(|_| format!("the share of {name} is a whole number up to 65535, got {share:?}"))?;
            if shares.insert(operation, u32::from(share)).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        shares.retain(|_, share| *share > 0);
        if shares.is_empty() {
            return Err("all shares are 0".into());
        }
        let share = |operation| shares.get(&operation).copied().unwrap_or_default();
        if share(Operation::Delete) > share(Operation::Put) {
            return Err("it deletes more than it puts, and would run out of objects".into());
        }
        Ok(Self(shares))
    }
}

/// All that two runs must have in common before their figures are put side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    pub operations: Vec<Operation>,
    /// Only with `mixed`.
    pub mix: Option<Mix>,
    pub sizes_bytes: Vec<u64>,
    /// Only with `range`.
    pub range_bytes: Option<u64>,
    /// How many are got and listed, and at least how many are there to be deleted.
    pub objects: Option<u64>,
    pub clients: u16,
    pub seconds: u64,
    pub requests: Option<u64>,
    pub warm_up_seconds: u64,
}

/// S3's limit for one put.
const SIZE_MAX: u64 = 5 << 30;
/// As many objects as reading needs so that it is not one object's speed; large ones are few.
const OBJECTS_TO_READ: u64 = 256;
const BYTES_TO_READ: u64 = 1 << 30;
/// Five pages, as full as S3 makes them.
const KEYS_TO_LIST: u64 = 5_000;
/// Objects begin with their numbers: below, two versions of one key are equal, and so are their
/// ETags.
const REPLACED_BYTES_MIN: u64 = 8;
const RANGE_BYTES: u64 = 64 << 10;

impl Parameters {
    /// What makes no sense, and what would.
    pub fn refusal(&self) -> Option<(String, &'static str)> {
        let asked = |operation| self.operations.contains(&operation);
        let does = |operation| asked(operation) || self.mix.as_ref().is_some_and(|mix| mix.has(operation));
        if self.operations.is_empty() || self.sizes_bytes.is_empty() {
            return Some(("there is nothing to measure".into(), "--operations get --sizes 4KiB"));
        }
        for (index, operation) in self.operations.iter().enumerate() {
            if self.operations[..index].contains(operation) {
                let message = format!("the operation {} is there twice", operation.name());
                return Some((message, "--operations put,get"));
            }
        }
        if let Some(size) = self.sizes_bytes.iter().find(|size| **size > SIZE_MAX) {
            let message = format!("one put brings at most 5 GiB, and {size} bytes are more");
            return Some((message, "--sizes 4KiB,64MiB"));
        }
        for (index, size) in self.sizes_bytes.iter().enumerate() {
            if self.sizes_bytes[..index].contains(size) {
                return Some((format!("the size of {size} bytes is there twice"), "--sizes 4KiB,64MiB"));
            }
        }
        if self.mix.is_some() && !asked(Operation::Mixed) {
            return Some(("a mix is given and nothing is mixed".into(), "--operations mixed"));
        }
        let ranges = does(Operation::Range);
        match (self.range_bytes, ranges) {
            (Some(_), false) => {
                return Some(("a range is given and none is got".into(), "--operations range"));
            }
            (Some(0), _) => return Some(("a range of no bytes can't be got".into(), "--range 64KiB")),
            _ => {}
        }
        let shortest = self.shortest();
        if ranges && shortest < self.range_bytes.unwrap_or(1) {
            let message = format!("an object of {shortest} bytes has no such range");
            return Some((message, "give a shorter --range, or larger --sizes"));
        }
        if does(Operation::PutIfMatch) && shortest < REPLACED_BYTES_MIN {
            let message = format!(
                "put-if-match needs objects of {REPLACED_BYTES_MIN} bytes: of {shortest} bytes two \
                 versions of a key can be equal, and have one ETag"
            );
            return Some((message, "give larger --sizes"));
        }
        if self.objects == Some(0) {
            return Some(("of no objects none can be got".into(), "--objects 1000"));
        }
        if self.seconds == 0 || self.requests == Some(0) {
            return Some(("that would measure nothing".into(), "--seconds 10"));
        }
        None
    }

    pub fn shortest(&self) -> u64 {
        self.sizes_bytes.iter().copied().min().unwrap_or_default()
    }

    /// How many objects of a size an operation needs.
    pub fn objects_of(&self, operation: Operation, size: u64) -> u64 {
        let wanted = if operation == Operation::List { KEYS_TO_LIST } else { OBJECTS_TO_READ };
        self.objects.unwrap_or_else(|| wanted.min(BYTES_TO_READ / size.max(1)).max(1))
    }

    pub fn range_of(&self, size: u64) -> u64 {
        self.range_bytes.unwrap_or(RANGE_BYTES).min(size)
    }

    /// The names of what differs, with both values.
    pub fn differences(&self, earlier: &Parameters) -> Vec<String> {
        let fields = |parameters: &Parameters| match serde_json::to_value(parameters) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => unreachable!("parameters are an object"),
        };
        let (ours, theirs) = (fields(self), fields(earlier));
        let differing = ours.into_iter().filter(|(name, value)| theirs[name] != *value);
        differing.map(|(name, value)| format!("{name}: {} then, {value} now", theirs[&name])).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_mix_is_drawn_by_its_shares_and_refuses_nonsense() {
        let mix: Mix = "get=70, put=20,list=5,delete=5,range=0".parse().unwrap();
        assert_eq!(mix.to_string(), "put=20,get=70,list=5,delete=5");
        let mut rng = StdRng::seed_from_u64(3);
        let gets = (0..10_000).filter(|_| mix.draw(&mut rng) == Operation::Get).count();
        assert!((6_700..7_300).contains(&gets), "{gets}");
        for bad in ["", "get", "get=x", "get=-1", "fetch=1", "mixed=1", "get=0", "get=1,get=2", "delete=1"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_differs_between_two_runs_is_named() {
        let parameters = Parameters {
            operations: vec![Operation::Put],
            mix: None,
            sizes_bytes: vec![4096],
            range_bytes: None,
            objects: None,
            clients: 64,
            seconds: 10,
            requests: None,
            warm_up_seconds: 1,
        };
        assert_eq!(parameters.refusal(), None);
        assert_eq!(parameters.differences(&parameters), Vec::<String>::new());
        let earlier = Parameters { clients: 8, ..parameters.clone() };
        assert_eq!(parameters.differences(&earlier), ["clients: 8 then, 64 now"]);
    }

    #[test]
    fn versions_that_can_be_equal_are_not_put_under_a_condition() {
        let parameters = |operation, mix: Option<&str>, size| Parameters {
            operations: vec![operation],
            mix: mix.map(|mix| mix.parse().unwrap()),
            sizes_bytes: vec![4096, size],
            range_bytes: None,
            objects: None,
            clients: 4,
            seconds: 1,
            requests: None,
            warm_up_seconds: 0,
        };
        assert_eq!(parameters(Operation::PutIfMatch, None, 8).refusal(), None);
        assert_eq!(parameters(Operation::PutIfNoneMatch, None, 7).refusal(), None);
        assert!(parameters(Operation::PutIfMatch, None, 7).refusal().is_some());
        assert!(parameters(Operation::Mixed, Some("get=1,put-if-match=1"), 0).refusal().is_some());
    }
}
