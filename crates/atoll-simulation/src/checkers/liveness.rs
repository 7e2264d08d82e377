//! Once the faults have stopped, every node answers every kind of operation again within
//! a minute.

use std::time::Duration;

use super::{Evidence, Problem};
use crate::load::Promptness;

/// Of virtual time, from when the faults stop.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let late: Vec<String> = evidence
        .promptness
        .iter()
        .filter(|found| found.took.is_none_or(|took| took > LIMIT))
        .map(|Promptness { target, kind, .. }| format!("{kind:?} at {target}"))
        .collect();
    if late.is_empty() {
        return Ok(());
    }
    Err(format!("{} s after the last fault these are not answered: {}", LIMIT.as_secs(), late.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Kind;

    #[test]
    fn whoever_never_answers_is_named() {
        let prompt = |took| Promptness { target: 2, kind: Kind::List, took };
        let check = |took| check(&Evidence { promptness: &[prompt(took)], ..Evidence::default() });
        assert_eq!(check(Some(Duration::from_secs(59))), Ok(()));
        assert!(check(None).unwrap_err().contains("List at 2"));
    }
}
