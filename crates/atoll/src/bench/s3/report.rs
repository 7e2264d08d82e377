//! What comes out: rows, ratios, and a file that a later run is held against.
//!
//! The names are the same in JSON and, in capitals and shortened, above the table's columns.
//! docs/performance.md explains each.

use std::{collections::BTreeMap, path::Path};

use atoll_types::ByteSize;
use serde::{Deserialize, Serialize};

use super::{
    load::Seen,
    parameters::{Operation, Parameters},
    store::LIES,
};
use crate::{
    failure::{Failure, Fault},
    output::table,
};

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Of this report; another is refused.
    pub format: u32,
    pub program: String,
    pub endpoints: Vec<String>,
    pub against: Vec<String>,
    pub parameters: Parameters,
    pub rows: Vec<Row>,
    pub ratios: Vec<Ratio>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    Tested,
    Against,
    Earlier,
}

impl Whose {
    pub fn name(self) -> &'static str {
        match self {
            Whose::Tested => "tested",
            Whose::Against => "against",
            Whose::Earlier => "earlier",
        }
    }
}

/// One operation at one size on one store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub store: Whose,
    /// `mixed/get` is the gets of `mixed`.
    pub operation: String,
    /// 0 for `list`.
    pub size_bytes: u64,
    pub seconds: f64,
    pub requests: u64,
    pub requests_per_second: f64,
    pub keys_per_second: f64,
    pub mib_per_second: f64,
    pub p50_millis: f64,
    pub p90_millis: f64,
    pub p99_millis: f64,
    pub p999_millis: f64,
    pub max_millis: f64,
    pub refused: u64,
    pub errors: u64,
    pub errors_by_code: BTreeMap<String, u64>,
}

/// A row by the row that it is held against.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ratio {
    pub operation: String,
    pub size_bytes: u64,
    /// Of requests per second, of keys for `list`; more is better. The median over the slices.
    pub throughput: Option<f64>,
    pub throughput_min: Option<f64>,
    pub throughput_max: Option<f64>,
    /// Pairs of slices that were compared; 0 with `--compare`.
    pub slices: usize,
    /// Of latencies over the whole time; less is better.
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
}

/// One store's part in a measurement.
pub struct Measured {
    pub whose: Whose,
    pub operation: Operation,
    pub size_bytes: u64,
    pub slices: Vec<(BTreeMap<Operation, Seen>, f64)>,
    /// Of the time before them no more than the lies that were told.
    pub warm_up: BTreeMap<Operation, Seen>,
}

impl Measured {
    /// The whole, and the parts of what is mixed.
    pub fn parts(&self) -> Vec<Option<Operation>> {
        if self.operation != Operation::Mixed {
            return vec![None];
        }
        let mut parts: Vec<Operation> = self.all().flat_map(|seen| seen.keys().copied()).collect();
        parts.sort_unstable();
        parts.dedup();
        std::iter::once(None).chain(parts.into_iter().map(Some)).collect()
    }

    fn all(&self) -> impl Iterator<Item = &BTreeMap<Operation, Seen>> {
        self.slices.iter().map(|(seen, _)| seen).chain(std::iter::once(&self.warm_up))
    }

    fn name(&self, part: Option<Operation>) -> String {
        match part {
            Some(part) => format!("{}/{}", self.operation.name(), part.name()),
            None => self.operation.name(),
        }
    }

    fn sum<'a>(seen: impl Iterator<Item = &'a BTreeMap<Operation, Seen>>, part: Option<Operation>) -> Seen {
        let mut sum = Seen::default();
        for (operation, seen) in seen.flatten() {
            if part.is_none_or(|part| part == *operation) {
                sum.add(seen);
            }
        }
        sum
    }

    pub fn seen(&self, part: Option<Operation>) -> Seen {
        Self::sum(self.all(), part)
    }

    pub fn row(&self, part: Option<Operation>) -> Row {
        let seen = self.seen(part);
        let seconds: f64 = self.slices.iter().map(|(_, seconds)| seconds).sum();
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let millis = |micros: u64| micros as f64 / 1000.0;
        let quantile = |quantile| millis(seen.micros.value_at_quantile(quantile));
        Row {
            store: self.whose,
            operation: self.name(part),
            size_bytes: self.size_bytes,
            seconds,
            requests: seen.requests(),
            requests_per_second: per_second(seen.requests() as f64),
            keys_per_second: per_second(seen.keys as f64),
            mib_per_second: per_second(seen.bytes as f64 / f64::from(1 << 20)),
            p50_millis: quantile(0.50),
            p90_millis: quantile(0.90),
            p99_millis: quantile(0.99),
            p999_millis: quantile(0.999),
            max_millis: millis(seen.micros.max()),
            refused: seen.refused,
            errors: seen.errors.values().sum(),
            errors_by_code: seen.errors,
        }
    }

    /// By slice.
    fn rates(&self, part: Option<Operation>) -> impl Iterator<Item = f64> {
        self.slices.iter().map(move |(seen, seconds)| {
            let listed = part.unwrap_or(self.operation) == Operation::List;
            let seen = Self::sum(std::iter::once(seen), part);
            (if listed { seen.keys } else { seen.requests() }) as f64 / seconds
        })
    }

    /// Against `other`, whose slices each ran right before or after ours.
    pub fn ratio(&self, other: &Measured, part: Option<Operation>) -> Ratio {
        let pairs = self.rates(part).zip(other.rates(part));
        let mut ratios: Vec<f64> = pairs.filter_map(|(ours, theirs)| quotient(ours, theirs)).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        Ratio {
            throughput: median(&ratios),
            throughput_min: ratios.first().copied(),
            throughput_max: ratios.last().copied(),
            slices: ratios.len(),
            ..self.row(part).ratio(&other.row(part))
        }
    }
}

impl Row {
    /// What `list` is measured by is keys.
    fn throughput(&self) -> f64 {
        let listed = self.operation.ends_with("list");
        if listed { self.keys_per_second } else { self.requests_per_second }
    }

    pub fn ratio(&self, other: &Row) -> Ratio {
        Ratio {
            operation: self.operation.clone(),
            size_bytes: self.size_bytes,
            throughput: quotient(self.throughput(), other.throughput()),
            throughput_min: None,
            throughput_max: None,
            slices: 0,
            p50: quotient(self.p50_millis, other.p50_millis),
            p90: quotient(self.p90_millis, other.p90_millis),
            p99: quotient(self.p99_millis, other.p99_millis),
            p999: quotient(self.p999_millis, other.p999_millis),
        }
    }
}

fn quotient(ours: f64, theirs: f64) -> Option<f64> {
    Some(ours / theirs).filter(|quotient| quotient.is_finite())
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl Report {
    pub fn new(parameters: Parameters, endpoints: Vec<String>, against: Vec<String>) -> Self {
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, program, endpoints, against, parameters, rows: Vec::new(), ratios: Vec::new() }
    }

    /// An earlier run's, which must have measured the same.
    pub fn read(path: &Path, parameters: &Parameters) -> Result<Self, Failure> {
        let refuse = |why: &str| Failure::new(Fault::Configuration, format!("{}: {why}", path.display()));
        let text =
            std::fs::read(path).map_err(|error| refuse("the earlier run can't be read").caused_by(&error))?;
        let report: Report = serde_json::from_slice(&text).map_err(|error| {
            refuse("this is no report of an earlier run")
                .caused_by(&error)
                .hint("atoll bench s3 … -o json > earlier.json")
        })?;
        if report.format != FORMAT {
            let why = format!("this report has format {}, and this program reads {FORMAT}", report.format);
            return Err(refuse(&why));
        }
        let differences = parameters.differences(&report.parameters);
        if !differences.is_empty() {
            let why = format!("that run measured something else: {}", differences.join("; "));
            return Err(refuse(&why).hint("run this one with the flags of the earlier"));
        }
        Ok(report)
    }

    /// Puts the earlier run's rows beside ours.
    pub fn compare(&mut self, earlier: &Report) {
        let theirs = earlier.rows.iter().filter(|row| row.store == Whose::Tested);
        let mut rows = Vec::new();
        for row in theirs {
            let same = |ours: &&Row| (&ours.operation, ours.size_bytes) == (&row.operation, row.size_bytes);
            self.ratios.extend(self.rows.iter().find(same).map(|ours| ours.ratio(row)));
            rows.push(Row { store: Whose::Earlier, ..row.clone() });
        }
        self.rows.extend(rows);
    }

    pub fn show(&self) {
        let shown = self.rows.iter().map(|row| {
            [
                row.store.name().to_owned(),
                row.operation.clone(),
                size(row.size_bytes),
                format!("{:.1}", row.seconds),
                row.requests.to_string(),
                format!("{:.0}", row.requests_per_second),
                format!("{:.0}", row.keys_per_second),
                format!("{:.1}", row.mib_per_second),
                format!("{:.2}", row.p50_millis),
                format!("{:.2}", row.p90_millis),
                format!("{:.2}", row.p99_millis),
                format!("{:.2}", row.p999_millis),
                format!("{:.2}", row.max_millis),
                row.refused.to_string(),
                row.errors.to_string(),
            ]
        });
        let header = [
            "STORE",
            "OPERATION",
            "SIZE",
            "SECONDS",
            "REQUESTS",
            "REQUESTS/S",
            "KEYS/S",
            "MIB/S",
            "P50 MS",
            "P90 MS",
            "P99 MS",
            "P99.9 MS",
            "MAX MS",
            "REFUSED",
            "ERRORS",
        ];
        println!("{}", table(header, shown));
        if self.ratios.is_empty() {
            return;
        }
        let by = if self.against.is_empty() { "the earlier run" } else { "the other store" };
        println!("\nThis by {by}: more is better for throughput, less for latencies.");
        let ratio = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        let shown = self.ratios.iter().map(|row| {
            [
                row.operation.clone(),
                size(row.size_bytes),
                ratio(row.throughput),
                ratio(row.throughput_min),
                ratio(row.throughput_max),
                row.slices.to_string(),
                ratio(row.p50),
                ratio(row.p90),
                ratio(row.p99),
                ratio(row.p999),
            ]
        });
        let header =
            ["OPERATION", "SIZE", "THROUGHPUT", "MIN", "MAX", "SLICES", "P50", "P90", "P99", "P99.9"];
        println!("{}", table(header, shown));
    }

    /// What makes all figures worthless: a store that answers wrongly, or not at all.
    pub fn verdict(&self) -> Result<(), Failure> {
        for row in self.rows.iter().filter(|row| row.store != Whose::Earlier) {
            for (code, count) in &row.errors_by_code {
                if LIES.contains(&code.as_str()) {
                    let what = format!("{} of {} by the {} store", code, row.operation, row.store.name());
                    return Err(Failure::new(
                        Fault::Request,
                        format!("a store answers wrongly: {count} {what}"),
                    )
                    .hint("no figure of such a store means anything"));
                }
            }
            if row.requests == 0 && row.errors > 0 {
                let message = format!("all of {} failed at the {} store", row.operation, row.store.name());
                return Err(Failure::new(Fault::Unavailable, message));
            }
        }
        Ok(())
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(whose: Whose, requests: &[u64]) -> Measured {
        let slice = |count: &u64| {
            let mut seen = Seen::default();
            seen.micros.record_n(1000 * count, *count).unwrap();
            (BTreeMap::from([(Operation::Get, seen)]), 1.0)
        };
        let slices = requests.iter().map(slice).collect();
        Measured { whose, operation: Operation::Mixed, size_bytes: 1, slices, warm_up: BTreeMap::new() }
    }

    #[test]
    fn a_ratio_is_the_median_of_its_slices_with_their_spread() {
        let (ours, theirs) =
            (measured(Whose::Tested, &[10, 30, 20]), measured(Whose::Against, &[10, 10, 10]));
        assert_eq!(ours.parts(), [None, Some(Operation::Get)]);
        let ratio = ours.ratio(&theirs, Some(Operation::Get));
        assert_eq!((ratio.operation.as_str(), ratio.slices), ("mixed/get", 3));
        assert_eq!(
            (ratio.throughput, ratio.throughput_min, ratio.throughput_max),
            (Some(2.0), Some(1.0), Some(3.0))
        );
        let row = ours.row(None);
        assert_eq!((row.requests, row.requests_per_second), (60, 20.0));
        let nothing = measured(Whose::Against, &[]);
        assert_eq!(ours.ratio(&nothing, None).throughput, None);
    }

    #[test]
    fn a_lie_in_the_warm_up_is_a_verdict_and_changes_no_figure() {
        let mut ours = measured(Whose::Tested, &[10, 30]);
        let honest = ours.row(None);
        let errors = BTreeMap::from([("WrongListing".to_owned(), 2)]);
        ours.warm_up.insert(Operation::List, Seen { errors, ..Seen::default() });
        let lied = ours.row(None);
        assert_eq!((honest.errors, lied.errors), (0, 2));
        assert_eq!(
            (honest.requests, honest.seconds, honest.p50_millis),
            (lied.requests, lied.seconds, lied.p50_millis)
        );
        assert_eq!(ours.parts(), [None, Some(Operation::Get), Some(Operation::List)]);
        let parameters = Parameters {
            operations: vec![Operation::Mixed],
            mix: Some("get=1,list=1".parse().unwrap()),
            sizes_bytes: vec![1],
            range_bytes: None,
            objects: None,
            clients: 1,
            seconds: 2,
            requests: None,
            warm_up_seconds: 1,
        };
        let mut report = Report::new(parameters, Vec::new(), Vec::new());
        report.rows.push(honest);
        assert!(report.verdict().is_ok());
        report.rows.push(lied);
        assert!(report.verdict().is_err());
    }
}
