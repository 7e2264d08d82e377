//! Is there an order of these operations, each between its call and its return, that a
//! single copy would have answered in the same way?
//!
//! The search is Wing and Gong's with Lowe's memoisation (J. Wing, C. Gong, "Testing and
//! verifying concurrent objects", 1993; G. Lowe, "Testing for linearizability", 2017):
//! depth first over which operation took effect next, never twice from the same set of
//! operations done and the same state. Histories are cut into parts that cannot
//! influence each other, and each part is searched alone, which is exact (Herlihy and
//! Wing, 1990, locality).
//!
//! An operation whose outcome nobody knows is an interval without an end: it may have
//! taken effect at any time after its call, or never. Nothing is lost by letting it take
//! effect just before the first answer that shows it (`search.rs` says why), so there are
//! few places for each, however many there are. A search that gives up says so,
//! and that counts as failed: [`Verdict::is_linearizable`] is true for one verdict only.
//!
//! What the operations mean is told by a [`Model`]: [`register`] and [`transactions`]
//! have one each. Tests: `tests/linearizability.rs`, with histories that are known to be
//! good or bad, made by hand and by mutation.

pub mod register;
mod search;
pub mod transactions;

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    hash::Hash,
};

use search::Search;

/// What a single copy would do.
pub trait Model {
    /// Equal inputs do the same.
    type Input: Clone + PartialEq + Debug;
    type Output: Clone + Debug;
    type State: Clone + Eq + Hash + Debug;
    /// What of a state conditions and answers ask for.
    type Trigger: Ord;
    /// Which part of the history an input belongs to.
    type Part: Clone + Ord + Debug;

    fn initial(&self) -> Self::State;

    /// The state after `input` if `output` is a right answer to it in `state`, else
    /// `None`. Without an `output` any answer would do.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;

    /// True if an operation that was answered so changes nothing, in whatever state it
    /// ran: a read, or a write that was refused. Then it is never wrong to let it take
    /// effect as soon as its answer is right. With `None`: whatever it was answered.
    fn changes_nothing(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool;

    /// Where an input has an effect.
    fn acts(&self, input: &Self::Input) -> Acts<Self::Trigger>;

    fn triggers(&self, state: &Self::State) -> impl IntoIterator<Item = Self::Trigger>;

    /// The triggers that all states have in which this answer is right.
    fn needs(&self, input: &Self::Input, output: &Self::Output) -> impl IntoIterator<Item = Self::Trigger>;

    /// The triggers that a state can have by this, if it changes anything.
    fn gives(&self, input: &Self::Input) -> impl IntoIterator<Item = Self::Trigger>;

    /// The part that each input belongs to; two inputs that can influence each other
    /// must have the same.
    fn parts(&self, inputs: &[&Self::Input]) -> Vec<Self::Part>;
}

/// Where an operation has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acts<T> {
    /// In every state, and what it leaves does not depend on it.
    Everywhere,
    /// In states with this trigger only.
    Where(T),
    /// It takes a try.
    Perhaps,
}

/// One operation as its client saw it. Times are of any unit, by one clock: `a` came
/// before `b` if `a.returned < b.called`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<I, O> {
    pub client: u64,
    pub input: I,
    pub called: u64,
    /// When it returned, and what. `None`: it may have happened, or still happen.
    pub returned: Option<(u64, O)>,
}

/// An operation of what a model models.
pub type Op<M> = Operation<<M as Model>::Input, <M as Model>::Output>;

/// Operations as they are being observed. Its clock is the order of the observations,
/// which in one thread is exact.
#[derive(Debug, Clone)]
pub struct History<I, O> {
    operations: Vec<Operation<I, O>>,
    clock: u64,
}

/// A call that has not returned yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call(usize);

impl<I, O> Default for History<I, O> {
    fn default() -> Self {
        Self { operations: Vec::new(), clock: 0 }
    }
}

impl<I, O> History<I, O> {
    /// Stays without an outcome until [`History::returned`], perhaps for ever.
    pub fn called(&mut self, client: u64, input: I) -> Call {
        self.clock += 1;
        self.operations.push(Operation { client, input, called: self.clock, returned: None });
        Call(self.operations.len() - 1)
    }

    pub fn returned(&mut self, call: Call, output: O) {
        self.clock += 1;
        self.operations[call.0].returned = Some((self.clock, output));
    }

    pub fn operations(&self) -> &[Operation<I, O>] {
        &self.operations
    }

    pub fn len(&self) -> usize {
        self.operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// How many have no outcome.
    pub fn unknown(&self) -> usize {
        self.operations.iter().filter(|operation| operation.returned.is_none()).count()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order exists.
    NotLinearizable(Box<Contradiction>),
    /// The search reached its limit: counts as failed.
    Undecided {
        part: String,
        configurations: usize,
    },
}

impl Verdict {
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Verdict::Linearizable)
    }
}

/// How far the search came, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// What the operations are about: a key, or several.
    pub part: String,
    /// How many operations of the part fit together at most, of how many with an outcome.
    pub explained: usize,
    pub of: usize,
    /// The state after those.
    pub state: String,
    /// What would have to come next, none of which fits; or what will not fit any more.
    pub stuck: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Linearizable => write!(f, "linearizable"),
            Verdict::NotLinearizable(found) => {
                write!(
                    f,
                    "not linearizable: on {}, {} of {} operations fit together, to the state {}, where none of these fits next:",
                    found.part, found.explained, found.of, found.state
                )?;
                found.stuck.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
            }
            Verdict::Undecided { part, configurations } => {
                write!(f, "undecided: gave up on {part} after {configurations} configurations")
            }
        }
    }
}

/// Five million, each of some 100 bytes: half a gigabyte, and about ten seconds for each of
/// the few searches that a part can take.
pub const CONFIGURATIONS_MAX: usize = 5_000_000;

/// Searches for an order. The first part without one ends the search.
pub fn check<M: Model>(model: &M, operations: &[Op<M>]) -> Verdict {
    check_within(model, operations, CONFIGURATIONS_MAX)
}

/// As [`check`], with another limit on what each part may cost.
pub fn check_within<M: Model>(model: &M, operations: &[Op<M>], configurations_max: usize) -> Verdict {
    let inputs: Vec<&M::Input> = operations.iter().map(|operation| &operation.input).collect();
    let mut parts: BTreeMap<M::Part, Vec<&Op<M>>> = BTreeMap::new();
    for (part, operation) in model.parts(&inputs).into_iter().zip(operations) {
        parts.entry(part).or_default().push(operation);
    }
    for (part, operations) in parts {
        let verdict = Search::new(model, operations).run(&part, configurations_max);
        if !verdict.is_linearizable() {
            return verdict;
        }
    }
    Verdict::Linearizable
}
