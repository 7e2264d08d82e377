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
//! taken effect at any time after its call, or never. A search that gives up says so,
//! and that counts as failed: [`Verdict::is_linearizable`] is true for one verdict only.
//!
//! What the operations mean is told by a [`Model`]: [`register`] and [`transactions`]
//! have one each. Tests: `tests/linearizability.rs`, with histories that are known to be
//! good or bad, made by hand and by mutation.

pub mod register;
pub mod transactions;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Debug},
    hash::{BuildHasherDefault, DefaultHasher, Hash},
};

/// What a single copy would do.
pub trait Model {
    /// Equal inputs do the same.
    type Input: Clone + PartialEq + Debug;
    type Output: Clone + Debug;
    type State: Clone + Eq + Hash + Debug;
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

    /// The part that each input belongs to; two inputs that can influence each other
    /// must have the same.
    fn parts(&self, inputs: &[&Self::Input]) -> Vec<Self::Part>;
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
    /// What would have to come next, none of which fits.
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

/// Five million, each of some 100 bytes: half a gigabyte, and about ten seconds.
pub const CONFIGURATIONS_MAX: usize = 5_000_000;

/// As many comparisons take about as long as one configuration.
const COMPARISONS_PER_CONFIGURATION: usize = 50;

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

/// One part of the history. Operations with an outcome and without are kept apart: the
/// former are done from the front with a few ahead of the rest, so that a set of them is
/// small to write down; the latter may stay undone for ever.
struct Search<'a, M: Model> {
    model: &'a M,
    /// By time of call.
    closed: Vec<&'a Op<M>>,
    open: Vec<&'a Op<M>>,
    /// For each open one, the one called before it with the same input. What either does
    /// the other would have done as well, so that they need only be tried in order.
    before: Vec<Option<usize>>,
}

/// Which operations are done.
#[derive(Debug, Clone)]
struct Done {
    /// All closed operations before this one, but not this one.
    before: usize,
    /// And these further ones, ascending.
    ahead: Vec<u32>,
    /// And these open ones.
    open: OpenSet,
}

impl Done {
    fn closed(&self, index: usize) -> bool {
        index < self.before || self.ahead.binary_search(&(index as u32)).is_ok()
    }

    fn open(&self, index: usize) -> bool {
        self.open[index / 64] & (1 << (index % 64)) != 0
    }

    fn count(&self) -> usize {
        self.before + self.ahead.len()
    }

    fn with(&self, choice: Choice) -> Done {
        let mut done = self.clone();
        match choice {
            Choice::Open(index) => done.open[index / 64] |= 1 << (index % 64),
            Choice::Closed(index) if index == done.before => {
                done.before += 1;
                let reached =
                    done.ahead.iter().zip(done.before..).take_while(|(have, want)| **have as usize == *want);
                let reached = reached.count();
                done.ahead.drain(..reached);
                done.before += reached;
            }
            Choice::Closed(index) => {
                let place = done.ahead.partition_point(|&other| (other as usize) < index);
                done.ahead.insert(place, index as u32);
            }
        }
        done
    }
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Closed(usize),
    Open(usize),
}

/// Closed operations done, and the state.
type Reached<S> = (usize, Vec<u32>, S);
/// A set of open operations, a bit each.
type OpenSet = Vec<u64>;

/// Where the search was already.
struct Seen<S> {
    /// With which sets of open operations done each place was reached. Never iterated.
    open: HashMap<Reached<S>, Vec<OpenSet>, BuildHasherDefault<DefaultHasher>>,
    configurations: usize,
    /// Sets that were compared, which takes time where many lead to one place.
    comparisons: usize,
}

impl<S> Default for Seen<S> {
    fn default() -> Self {
        Self { open: HashMap::default(), configurations: 0, comparisons: 0 }
    }
}

impl<S: Clone + Eq + Hash> Seen<S> {
    /// False if the search was here, or in the same place with fewer open operations
    /// used up: whatever can follow here could follow there.
    fn is_new(&mut self, done: &Done, state: &S) -> bool {
        let sets = self.open.entry((done.before, done.ahead.clone(), state.clone())).or_default();
        let covered = |set: &OpenSet| set.iter().zip(&done.open).all(|(used, here)| used & !here == 0);
        self.comparisons += sets.len();
        if sets.iter().any(covered) {
            return false;
        }
        sets.push(done.open.clone());
        self.configurations += 1;
        true
    }
}

/// A place in the search: what is done, what came of it, and what is still to be tried.
struct Frame<S> {
    done: Done,
    state: S,
    untried: Vec<Choice>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, mut operations: Vec<&'a Op<M>>) -> Self {
        // What changes nothing and told nobody anything is no evidence.
        operations.retain(|operation| {
            operation.returned.is_some() || !model.changes_nothing(&operation.input, None)
        });
        operations.sort_by_key(|operation| operation.called);
        let (closed, open): (Vec<_>, Vec<&Op<M>>) =
            operations.into_iter().partition(|operation| operation.returned.is_some());
        let alike = |index: &usize| (0..*index).rev().find(|other| open[*other].input == open[*index].input);
        let before = (0..open.len()).map(|index| alike(&index)).collect();
        Self { model, closed, open, before }
    }

    fn run(&self, part: &M::Part, configurations_max: usize) -> Verdict {
        let done = Done { before: 0, ahead: Vec::new(), open: vec![0; self.open.len().div_ceil(64)] };
        let mut seen = Seen::default();
        let mut best = (done.clone(), self.model.initial());
        let mut stack = vec![self.frame(done, self.model.initial())];
        while let Some(frame) = stack.last_mut() {
            if frame.done.before == self.closed.len() {
                return Verdict::Linearizable;
            }
            let Some(choice) = frame.untried.pop() else {
                stack.pop();
                continue;
            };
            let Some(state) = self.step(&frame.state, choice) else { continue };
            let done = frame.done.with(choice);
            if !seen.is_new(&done, &state) {
                continue;
            }
            let compared = seen.comparisons / COMPARISONS_PER_CONFIGURATION;
            if seen.configurations + compared > configurations_max {
                return Verdict::Undecided { part: format!("{part:?}"), configurations: seen.configurations };
            }
            if done.count() > best.0.count() {
                best = (done.clone(), state.clone());
            }
            stack.push(self.frame(done, state));
        }
        Verdict::NotLinearizable(Box::new(self.contradiction(part, best)))
    }

    fn operation(&self, choice: Choice) -> &'a Op<M> {
        match choice {
            Choice::Closed(index) => self.closed[index],
            Choice::Open(index) => self.open[index],
        }
    }

    fn step(&self, state: &M::State, choice: Choice) -> Option<M::State> {
        let operation = self.operation(choice);
        self.model.step(state, &operation.input, operation.returned.as_ref().map(|(_, output)| output))
    }

    /// Operations that nothing undone has to precede; the last is to be tried first.
    fn candidates(&self, done: &Done) -> Vec<Choice> {
        let mut earliest_return = u64::MAX;
        let mut closed = Vec::new();
        for index in done.before..self.closed.len() {
            let operation = self.closed[index];
            if operation.called > earliest_return {
                break;
            }
            if !done.closed(index) {
                let returned = operation.returned.as_ref().map_or(u64::MAX, |(at, _)| *at);
                earliest_return = earliest_return.min(returned);
                closed.push((returned, index));
            }
        }
        closed.retain(|&(_, index)| self.closed[index].called <= earliest_return);
        // Most operations take effect in about the order of their returns, and what
        // nobody saw return most often did not happen.
        closed.sort_unstable_by(|a, b| b.cmp(a));
        let open = (0..self.open.len())
            .rev()
            .filter(|&index| !done.open(index) && self.open[index].called <= earliest_return)
            .filter(|&index| self.before[index].is_none_or(|before| done.open(before)))
            .map(Choice::Open);
        open.chain(closed.into_iter().map(|(_, index)| Choice::Closed(index))).collect()
    }

    fn frame(&self, done: Done, state: M::State) -> Frame<M::State> {
        let mut untried = self.candidates(&done);
        let free = untried.iter().copied().find(|&choice| {
            let operation = self.operation(choice);
            let Some((_, output)) = &operation.returned else { return false };
            self.model.changes_nothing(&operation.input, Some(output)) && self.step(&state, choice).is_some()
        });
        if let Some(choice) = free {
            untried = vec![choice];
        }
        Frame { done, state, untried }
    }

    fn contradiction(&self, part: &M::Part, (done, state): (Done, M::State)) -> Contradiction {
        let stuck = self.candidates(&done).into_iter().rev().map(|choice| {
            let operation = self.operation(choice);
            match &operation.returned {
                Some((returned, output)) => format!(
                    "client {}, {}..{returned}: {:?} -> {output:?}",
                    operation.client, operation.called, operation.input
                ),
                None => format!(
                    "client {}, {}..: {:?} -> unknown",
                    operation.client, operation.called, operation.input
                ),
            }
        });
        Contradiction {
            part: format!("{part:?}"),
            explained: done.count(),
            of: self.closed.len(),
            state: format!("{state:?}"),
            stuck: stuck.collect(),
        }
    }
}
