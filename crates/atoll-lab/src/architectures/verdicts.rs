//! What follows from the rows: what textbooks claim of architectures, each with a verdict, and
//! who is best at what.
//!
//! A verdict compares rows of the largest network, unless it is about growth. It says in numbers
//! what it rests on.

use serde::Serialize;

use super::Condition;
use crate::{
    columns::{Column, Row},
    kinds::{Architecture, Family},
};

/// A claim, tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub claim: &'static str,
    pub verdict: Holds,
    /// The numbers that it rests on.
    pub because: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    Yes,
    /// Of some of the architectures that it is about.
    InPart,
    No,
    /// Not all that it is about was run.
    NotTested,
}

impl Holds {
    pub fn name(self) -> &'static str {
        match self {
            Holds::Yes => "holds",
            Holds::InPart => "holds in part",
            Holds::No => "does not hold",
            Holds::NotTested => "not tested",
        }
    }

    fn of_all(cases: &[bool]) -> Self {
        match (cases.is_empty(), cases.iter().all(|case| *case), cases.iter().any(|case| *case)) {
            (true, ..) => Holds::NotTested,
            (_, true, _) => Holds::Yes,
            (_, _, true) => Holds::InPart,
            _ => Holds::No,
        }
    }
}

/// Who is best under a condition, by one column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Winner {
    pub nodes: f64,
    pub condition: String,
    pub column: &'static str,
    pub overlay: String,
    pub value: f64,
}

impl Winner {
    /// The value, for people.
    pub fn shown(&self) -> String {
        rounded(self.value)
    }
}

/// What somebody is best at, and whether more is better.
const COSTS: &[(Column, bool)] = &[
    (Column::OperationsFoundShare, true),
    (Column::AnswerMsMean, false),
    (Column::OperationMessagesMean, false),
    (Column::TrafficBytesPerNodeS, false),
    (Column::BusiestBytesPerS, false),
    (Column::UpkeepBytesPerNodeS, false),
    (Column::BytesPerNode, false),
    (Column::LastMsMean, false),
];

/// Cheap is only what works: who finds, and reaches, nearly as much as the best.
const WORKS: f64 = 0.95;

pub(super) fn winners(rows: &[Row]) -> Vec<Winner> {
    let Some(table) = Table::largest(rows) else { return Vec::new() };
    let mut winners = Vec::new();
    for condition in Condition::ALL {
        let most = |column| {
            let under = table.rows.iter().filter(|row| row.shown(Column::Condition) == condition.name());
            under.filter_map(|row| row.number(column)).fold(0.0, f64::max)
        };
        let does =
            [Column::OperationsFoundShare, Column::ReachedShareMean].map(|column| (column, most(column)));
        let works = |row: &&&Row| {
            does.iter().all(|(column, most)| row.number(*column).is_none_or(|share| share >= WORKS * most))
        };
        for &(column, more) in COSTS {
            let better = |one: &f64, other: &f64| {
                if more { other.total_cmp(one) } else { one.total_cmp(other) }
            };
            let values = table.rows.iter().filter(|row| row.shown(Column::Condition) == condition.name());
            let values = values
                .filter(works)
                .filter_map(|row| Some((row.number(column)?, row.shown(Column::Overlay))));
            if let Some((value, overlay)) = values.min_by(|(one, _), (other, _)| better(one, other)) {
                winners.push(Winner {
                    nodes: table.nodes,
                    condition: condition.name().to_owned(),
                    column: column.name(),
                    overlay,
                    value,
                });
            }
        }
    }
    winners
}

pub(super) fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let Some(large) = Table::largest(rows) else { return Vec::new() };
    vec![
        less_than_the_centre(
            &large,
            "peer-to-peer sends less traffic than client–server, all nodes together",
            Column::TrafficBytesPerNodeS,
        ),
        less_than_the_centre(
            &large,
            "peer-to-peer sends less traffic than client–server, at the busiest node",
            Column::BusiestBytesPerS,
        ),
        scales_better(&large, &Table::smallest(rows)),
        adapts_better(&large),
        is_slower(&large),
        hybrids_do_better(&large),
        hybrids_cost_more(&large),
    ]
}

/// The rows of one size.
struct Table<'a> {
    nodes: f64,
    rows: Vec<&'a Row>,
}

impl<'a> Table<'a> {
    fn of(rows: &'a [Row], better: fn(f64, f64) -> f64) -> Option<Self> {
        let nodes = rows.iter().filter_map(|row| row.number(Column::Nodes)).reduce(better)?;
        let rows = rows.iter().filter(|row| row.number(Column::Nodes) == Some(nodes)).collect();
        Some(Self { nodes, rows })
    }

    fn largest(rows: &'a [Row]) -> Option<Self> {
        Self::of(rows, f64::max)
    }

    fn smallest(rows: &'a [Row]) -> Option<Self> {
        Self::of(rows, f64::min)
    }

    fn number(&self, overlay: Architecture, condition: Condition, column: Column) -> Option<f64> {
        let fits = |row: &&&Row| {
            row.shown(Column::Overlay) == overlay.name() && row.shown(Column::Condition) == condition.name()
        };
        self.rows.iter().find(fits)?.number(column)
    }

    /// Of the architectures of a family that were run, in order.
    fn numbers(&self, family: Family, condition: Condition, column: Column) -> Vec<(Architecture, f64)> {
        let members = Architecture::ALL.iter().filter(|overlay| overlay.family() == family);
        members.filter_map(|overlay| Some((*overlay, self.number(*overlay, condition, column)?))).collect()
    }

    fn of_families(
        &self,
        families: &[Family],
        condition: Condition,
        column: Column,
    ) -> Vec<(Architecture, f64)> {
        families.iter().flat_map(|family| self.numbers(*family, condition, column)).collect()
    }
}

/// The pure kinds without a centre.
const PEERS: [Family; 2] = [Family::Structured, Family::Unstructured];
const PURE: [Family; 3] = [Family::ClientServer, Family::Structured, Family::Unstructured];

fn told(numbers: &[(Architecture, f64)]) -> String {
    let each = numbers.iter().map(|(overlay, number)| format!("{} {}", overlay.name(), rounded(*number)));
    each.collect::<Vec<_>>().join(", ")
}

/// Three digits are enough to compare by.
fn rounded(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 1.0 => format!("{number:.1}"),
        _ => format!("{number:.3}"),
    }
}

fn less_than_the_centre(table: &Table, claim: &'static str, column: Column) -> Verdict {
    let centre = table.numbers(Family::ClientServer, Condition::Calm, column);
    let peers = table.of_families(&PEERS, Condition::Calm, column);
    let cases: Vec<bool> =
        centre.iter().flat_map(|(_, centre)| peers.iter().map(move |(_, peer)| peer < centre)).collect();
    let because = format!("{}: {}; {}", column.name(), told(&centre), told(&peers));
    Verdict { claim, verdict: Holds::of_all(&cases), because }
}

/// Between the least network and the largest: how many times more a node sends, when each asks as
/// often and everything is held by as many.
fn scales_better(large: &Table, small: &Option<Table>) -> Verdict {
    let claim = "unstructured networks scale better than structured ones";
    let grown = |family| -> Vec<(Architecture, f64)> {
        let Some(small) = small.as_ref().filter(|small| small.nodes < large.nodes) else { return Vec::new() };
        let column = Column::TrafficBytesPerNodeS;
        let before = small.numbers(family, Condition::Calm, column);
        let after = large.numbers(family, Condition::Calm, column);
        let both = after.iter().zip(before).filter(|((one, _), (other, _))| one == other);
        both.map(|((overlay, after), (_, before))| (*overlay, after / before)).collect()
    };
    let (unstructured, structured) = (grown(Family::Unstructured), grown(Family::Structured));
    let pairs = unstructured.iter().flat_map(|(_, one)| structured.iter().map(move |(_, other)| one < other));
    let because = format!(
        "what a node sends grows, upkeep included, by a factor of: {}; {}",
        told(&unstructured),
        told(&structured)
    );
    Verdict { claim, verdict: Holds::of_all(&pairs.collect::<Vec<_>>()), because }
}

/// Whether more is found while nodes come and go, and right after the busiest failed.
fn adapts_better(table: &Table) -> Verdict {
    let claim = "unstructured networks adapt better than structured ones";
    let mut cases = Vec::new();
    let mut because = Vec::new();
    for condition in [Condition::Churn, Condition::CentreFails] {
        let found = |family| table.numbers(family, condition, Column::OperationsFoundShare);
        let (unstructured, structured) = (found(Family::Unstructured), found(Family::Structured));
        cases.extend(
            unstructured.iter().flat_map(|(_, one)| structured.iter().map(move |(_, other)| one >= other)),
        );
        because.push(format!("found, {}: {}; {}", condition.name(), told(&unstructured), told(&structured)));
    }
    Verdict { claim, verdict: Holds::of_all(&cases), because: because.join(". ") }
}

fn is_slower(table: &Table) -> Verdict {
    let claim = "peer-to-peer is slower than client–server";
    let centre = table.numbers(Family::ClientServer, Condition::Calm, Column::AnswerMsMean);
    let peers = table.of_families(&PEERS, Condition::Calm, Column::AnswerMsMean);
    let cases: Vec<bool> =
        centre.iter().flat_map(|(_, centre)| peers.iter().map(move |(_, peer)| peer > centre)).collect();
    let because = format!("ms to an answer: {}; {}", told(&centre), told(&peers));
    Verdict { claim, verdict: Holds::of_all(&cases), because }
}

/// Better than the centre where the centre is weak, and than peers where peers are.
/// Whatever is asked of an architecture, against each pure kind: a hybrid that beats a centre where
/// centres are weak, and peers where those are, does better than both only in part.
fn hybrids_do_better(table: &Table) -> Verdict {
    let claim = "hybrids do better than both pure kinds";
    let (calm, fails) = (Condition::Calm, Condition::CentreFails);
    let mut cases = Vec::new();
    let mut because = Vec::new();
    let mut compare = |what: &str, condition, column, better: fn(f64, f64) -> bool| {
        let hybrid = table.numbers(Family::Hybrid, condition, column);
        let pure = table.of_families(&PURE, condition, column);
        cases.extend(
            hybrid.iter().flat_map(|(_, one)| pure.iter().map(move |(_, other)| better(*one, *other))),
        );
        because.push(format!("{what}: {}; {}", told(&hybrid), told(&pure)));
    };
    compare("found when the centre fails", fails, Column::OperationsFoundShare, |one, other| one >= other);
    for (what, column) in [
        ("load of the busiest, bytes/s", Column::BusiestBytesPerS),
        ("ms to an answer", Column::AnswerMsMean),
        ("messages for an operation", Column::OperationMessagesMean),
    ] {
        compare(what, calm, column, |one, other| one < other);
    }
    Verdict { claim, verdict: Holds::of_all(&cases), because: because.join(". ") }
}

fn hybrids_cost_more(table: &Table) -> Verdict {
    let claim = "hybrids do so at the price of overhead";
    let mut cases = Vec::new();
    let mut because = Vec::new();
    for column in [Column::UpkeepBytesPerNodeS, Column::BytesPerNode] {
        let hybrid = table.numbers(Family::Hybrid, Condition::Calm, column);
        let pure = table.of_families(&PURE, Condition::Calm, column);
        cases.extend(hybrid.iter().flat_map(|(_, one)| pure.iter().map(move |(_, other)| one > other)));
        because.push(format!("{}: {}; {}", column.name(), told(&hybrid), told(&pure)));
    }
    Verdict { claim, verdict: Holds::of_all(&cases), because: because.join(". ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(overlay: &'static str, nodes: usize, condition: Condition, values: &[(Column, f64)]) -> Row {
        let row = Row::default()
            .with(Column::Overlay, overlay)
            .with(Column::Nodes, nodes)
            .with(Column::Condition, condition.name());
        values.iter().fold(row, |row, (column, value)| row.with(*column, *value))
    }

    fn verdict<'a>(verdicts: &'a [Verdict], part: &str) -> &'a Verdict {
        verdicts.iter().find(|verdict| verdict.claim.contains(part)).expect("a claim")
    }

    #[test]
    fn a_claim_is_judged_by_the_numbers_of_the_largest_network() {
        let rows: Vec<Row> = [100, 400]
            .into_iter()
            .flat_map(|nodes| {
                // Chord's traffic grows by a half, a flood's with the network.
                let chord = 10.0 + nodes as f64 / 60.0;
                [
                    row(
                        "chord",
                        nodes,
                        Condition::Calm,
                        &[(Column::AnswerMsMean, 300.0), (Column::TrafficBytesPerNodeS, chord)],
                    ),
                    row(
                        "flood",
                        nodes,
                        Condition::Calm,
                        &[(Column::AnswerMsMean, 100.0), (Column::TrafficBytesPerNodeS, nodes as f64 * 5.0)],
                    ),
                    row("pastry", nodes, Condition::Calm, &[(Column::AnswerMsMean, 150.0)]),
                ]
            })
            .collect();
        let verdicts = verdicts(&rows);
        let scales = verdict(&verdicts, "scale better");
        assert_eq!(scales.verdict, Holds::No, "{}", scales.because);
        assert!(scales.because.contains("flood 4.0; chord 1.4"), "{}", scales.because);
        // Nobody ran a centre: nothing is said of what it costs.
        assert_eq!(verdict(&verdicts, "is slower").verdict, Holds::NotTested);
        let winners = winners(&rows);
        let fastest = winners.iter().find(|winner| winner.column == "answer_ms_mean").expect("a winner");
        assert_eq!((fastest.overlay.as_str(), fastest.value, fastest.nodes), ("flood", 100.0, 400.0));
    }

    /// It beats a centre at what centres are bad at, and peers at what peers are: not both at both.
    #[test]
    fn a_hybrid_is_held_against_every_pure_kind_in_everything() {
        let of = |overlay, ms, busiest| {
            let values = [(Column::AnswerMsMean, ms), (Column::BusiestBytesPerS, busiest)];
            row(overlay, 100, Condition::Calm, &values)
        };
        let rows = [of("directory", 100.0, 900.0), of("chord", 300.0, 90.0), of("hybrid", 200.0, 300.0)];
        let verdict_of = |rows: &[Row]| verdict(&verdicts(rows), "hybrids do better").verdict;
        assert_eq!(verdict_of(&rows), Holds::InPart);
        assert_eq!(verdict_of(&[rows[0].clone(), rows[1].clone(), of("hybrid", 50.0, 50.0)]), Holds::Yes);
    }

    #[test]
    fn what_holds_of_some_holds_in_part() {
        assert_eq!(Holds::of_all(&[]), Holds::NotTested);
        assert_eq!(Holds::of_all(&[true, false]), Holds::InPart);
        assert_eq!((Holds::of_all(&[true]), Holds::of_all(&[false, false])), (Holds::Yes, Holds::No));
    }
}
