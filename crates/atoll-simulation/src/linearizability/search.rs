//! The search for an order of one part of a history.
//!
//! A step of it takes one operation with an outcome, from those that nothing undone has to
//! precede, and before that as many without an outcome as it needs: none if its answer is
//! right as it is. More need not be tried. Take any order that explains the history, and in
//! it an operation W without an outcome. Leave W out, or let it come one later: if all
//! answers stay right and what is held then stays the same, that is an order as well, for
//! nothing returned waits for W. Do this until it can be done no more, and each W stands in
//! a row of such before one operation X with an outcome, and neither without it nor with it
//! behind X is X answered as it was, or the same held then.
//!
//! Few operations need more than one before them, and to try all longer rows wherever an
//! early choice was wrong takes for ever. So the first search tries none longer than one,
//! and one that finds no order is repeated with longer ones, at last with any.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, DefaultHasher, Hash},
};

use super::{Acts, Contradiction, Model, Op, Verdict};

/// How many operations without an outcome may stand in a row before one with, in one search
/// after the other.
const ROWS_MAX: [usize; 4] = [1, 2, 4, usize::MAX];

/// As many comparisons, or tries of an operation, take about as long as one configuration.
const COMPARISONS_PER_CONFIGURATION: usize = 50;

/// One part of the history. Operations with an outcome and without are kept apart: the
/// former are done from the front with a few ahead of the rest, so that a set of them is
/// small to write down; the latter may stay undone for ever.
pub(super) struct Search<'a, M: Model> {
    model: &'a M,
    /// By time of call.
    closed: Vec<&'a Op<M>>,
    open: Vec<&'a Op<M>>,
    /// For each open one, the one called before it with the same input. What either does
    /// the other would have done as well, so that they need only be tried in order.
    before: Vec<Option<usize>>,
    /// The open ones that act only where the state has a trigger, and those that may act
    /// anywhere for all that is known; ascending. The others need nothing before them.
    triggered: BTreeMap<M::Trigger, Vec<usize>>,
    untold: Vec<usize>,
    /// The closed ones that need a state with a trigger, and those that lead to one.
    needing: BTreeMap<M::Trigger, Vec<usize>>,
    giving: BTreeMap<M::Trigger, Givers>,
    row_max: usize,
    /// Longer rows would have been tried.
    was_cut: bool,
    /// Work done beside reaching configurations.
    comparisons: usize,
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

    fn with(&self, step: &Step) -> Done {
        let mut done = self.clone();
        for index in &step.open {
            done.open[index / 64] |= 1 << (index % 64);
        }
        if step.closed == done.before {
            done.before += 1;
            let reached =
                done.ahead.iter().zip(done.before..).take_while(|(have, want)| **have as usize == *want);
            let reached = reached.count();
            done.ahead.drain(..reached);
            done.before += reached;
        } else {
            let place = done.ahead.partition_point(|&other| (other as usize) < step.closed);
            done.ahead.insert(place, step.closed as u32);
        }
        done
    }
}

/// Operations that lead to states with one trigger.
#[derive(Debug, Default)]
struct Givers {
    closed: Vec<usize>,
    open: Vec<usize>,
}

/// Some open operations, in this order, and then a closed one.
#[derive(Debug, Clone)]
struct Step {
    open: Vec<usize>,
    closed: usize,
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
}

impl<S> Default for Seen<S> {
    fn default() -> Self {
        Self { open: HashMap::default(), configurations: 0 }
    }
}

impl<S: Clone + Eq + Hash> Seen<S> {
    /// False if the search was here, or in the same place with fewer open operations
    /// used up: whatever can follow here could follow there. Counts what it compares, which
    /// takes time where many sets lead to one place.
    fn is_new(&mut self, done: &Done, state: &S, comparisons: &mut usize) -> bool {
        let sets = self.open.entry((done.before, done.ahead.clone(), state.clone())).or_default();
        let covered = |set: &OpenSet| set.iter().zip(&done.open).all(|(used, here)| used & !here == 0);
        *comparisons += sets.len();
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
    /// To be tried from the last.
    untried: Vec<(Step, S)>,
    /// What the steps in `untried` have before their closed operation, to be made longer;
    /// `None` if there are no longer ones, or they need not be tried.
    rows: Option<Rows<S>>,
}

/// Rows of open operations, all of one length, and the state after each.
struct Rows<S> {
    rows: Vec<(Vec<usize>, S)>,
    closed: Vec<usize>,
    /// Open ones from this one on were called too late.
    called: usize,
}

impl<'a, M: Model> Search<'a, M> {
    pub(super) fn new(model: &'a M, mut operations: Vec<&'a Op<M>>) -> Self {
        // What changes nothing and told nobody anything is no evidence.
        operations.retain(|operation| {
            operation.returned.is_some() || !model.changes_nothing(&operation.input, None)
        });
        operations.sort_by_key(|operation| operation.called);
        let (closed, open): (Vec<_>, Vec<&Op<M>>) =
            operations.into_iter().partition(|operation| operation.returned.is_some());
        let alike = |index: &usize| (0..*index).rev().find(|other| open[*other].input == open[*index].input);
        let before = (0..open.len()).map(|index| alike(&index)).collect();
        let (mut triggered, mut untold) = (BTreeMap::<_, Vec<usize>>::new(), Vec::new());
        for (index, operation) in open.iter().enumerate() {
            match model.acts(&operation.input) {
                Acts::Everywhere => {}
                Acts::Where(trigger) => triggered.entry(trigger).or_default().push(index),
                Acts::Perhaps => untold.push(index),
            }
        }
        let mut giving = BTreeMap::<_, Givers>::new();
        for (index, operation) in open.iter().enumerate() {
            for trigger in model.gives(&operation.input) {
                giving.entry(trigger).or_default().open.push(index);
            }
        }
        let mut needing = BTreeMap::<_, Vec<usize>>::new();
        for (index, operation) in closed.iter().enumerate() {
            let Some((_, output)) = &operation.returned else { continue };
            for trigger in model.needs(&operation.input, output) {
                needing.entry(trigger).or_default().push(index);
            }
            if model.changes_nothing(&operation.input, Some(output)) {
                continue;
            }
            for trigger in model.gives(&operation.input) {
                giving.entry(trigger).or_default().closed.push(index);
            }
        }
        Self {
            model,
            closed,
            open,
            before,
            triggered,
            untold,
            needing,
            giving,
            row_max: 0,
            was_cut: false,
            comparisons: 0,
        }
    }

    pub(super) fn run(mut self, part: &M::Part, configurations_max: usize) -> Verdict {
        let mut verdict = Verdict::Linearizable;
        for row_max in ROWS_MAX {
            (self.row_max, self.was_cut, self.comparisons) = (row_max, false, 0);
            verdict = self.search(part, configurations_max);
            if verdict.is_linearizable() || !self.was_cut {
                break;
            }
        }
        verdict
    }

    fn search(&mut self, part: &M::Part, configurations_max: usize) -> Verdict {
        let done = Done { before: 0, ahead: Vec::new(), open: vec![0; self.open.len().div_ceil(64)] };
        let mut seen = Seen::default();
        let mut best = (done.clone(), self.model.initial(), None);
        let mut stack = vec![self.frame(done, self.model.initial())];
        while let Some(frame) = stack.last_mut() {
            if frame.done.before == self.closed.len() {
                return Verdict::Linearizable;
            }
            let cost = seen.configurations + self.comparisons / COMPARISONS_PER_CONFIGURATION;
            if cost > configurations_max {
                return Verdict::Undecided { part: format!("{part:?}"), configurations: seen.configurations };
            }
            let Some((step, state)) = frame.untried.pop() else {
                if !self.lengthen(frame) {
                    stack.pop();
                }
                continue;
            };
            let done = frame.done.with(&step);
            let stranded = self.stranded(&frame.state, &step, &done, &state);
            if stranded.is_some() {
                if done.count() > best.0.count() {
                    best = (done, state, stranded);
                }
                continue;
            }
            if !seen.is_new(&done, &state, &mut self.comparisons) {
                continue;
            }
            if done.count() > best.0.count() {
                best = (done.clone(), state.clone(), None);
            }
            let next = self.frame(done, state);
            stack.push(next);
        }
        Verdict::NotLinearizable(Box::new(self.contradiction(part, best)))
    }

    /// A step may leave a state, at its beginning or within its row, that something undone
    /// needs and nothing undone leads to. What, if so: it will never be answered as it was.
    fn stranded(&self, before: &M::State, step: &Step, done: &Done, after: &M::State) -> Option<usize> {
        let kept: Vec<M::Trigger> = self.model.triggers(after).into_iter().collect();
        let stranded_by_leaving = |state: &M::State| {
            let mut left = self.model.triggers(state).into_iter().filter(|trigger| !kept.contains(trigger));
            left.find_map(|trigger| {
                let needing = self.needing.get(&trigger)?;
                let waiting = needing.iter().find(|index| !done.closed(**index))?;
                let is_led_to = self.giving.get(&trigger).is_some_and(|giving| {
                    giving.closed.iter().any(|index| !done.closed(*index))
                        || giving.open.iter().any(|index| !done.open(*index))
                });
                (!is_led_to).then_some(*waiting)
            })
        };
        let mut state = before.clone();
        stranded_by_leaving(&state).or_else(|| {
            step.open.iter().find_map(|index| {
                state = self.open_step(&state, *index);
                stranded_by_leaving(&state)
            })
        })
    }

    fn closed_step(&self, state: &M::State, index: usize) -> Option<M::State> {
        let operation = self.closed[index];
        self.model.step(state, &operation.input, operation.returned.as_ref().map(|(_, output)| output))
    }

    /// Without an output nothing is a wrong answer; what a model refuses has no effect.
    fn open_step(&self, state: &M::State, index: usize) -> M::State {
        self.model.step(state, &self.open[index].input, None).unwrap_or_else(|| state.clone())
    }

    /// Operations that nothing undone has to precede: with an outcome, the last to be tried
    /// first; and without, all before the one returned.
    fn candidates(&self, done: &Done) -> (Vec<usize>, usize) {
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
        // Most operations take effect in about the order of their returns.
        closed.sort_unstable_by(|a, b| b.cmp(a));
        let called = self.open.partition_point(|operation| operation.called <= earliest_return);
        (closed.into_iter().map(|(_, index)| index).collect(), called)
    }

    /// Open operations that may have an effect after this row, for all that can be told
    /// without trying.
    fn next_in_row(&self, done: &Done, row: &[usize], state: &M::State, called: usize) -> Vec<usize> {
        let is_done = |index: usize| done.open(index) || row.contains(&index);
        let is_next =
            |index: &usize| *index < called && !is_done(*index) && self.before[*index].is_none_or(is_done);
        if row.is_empty() {
            return (0..called).filter(is_next).collect();
        }
        let triggers = self.model.triggers(state).into_iter();
        let triggered = triggers.filter_map(|trigger| self.triggered.get(&trigger)).flatten();
        triggered.chain(&self.untold).copied().filter(is_next).collect()
    }

    fn frame(&mut self, done: Done, state: M::State) -> Frame<M::State> {
        let (closed, called) = self.candidates(&done);
        let mut untried = Vec::new();
        for &index in &closed {
            self.comparisons += 1;
            let Some(next) = self.closed_step(&state, index) else { continue };
            let operation = self.closed[index];
            let output = operation.returned.as_ref().map(|(_, output)| output);
            let step = Step { open: Vec::new(), closed: index };
            if self.model.changes_nothing(&operation.input, output) {
                // It is never wrong to do it as soon as its answer is right.
                return Frame { done, state, untried: vec![(step, next)], rows: None };
            }
            untried.push((step, next));
        }
        let rows = vec![(Vec::new(), state.clone())];
        Frame { done, state, untried, rows: Some(Rows { rows, closed, called }) }
    }

    /// Steps with one open operation more than before. False if there are none.
    fn lengthen(&mut self, frame: &mut Frame<M::State>) -> bool {
        let Some(Rows { rows, closed, called }) = frame.rows.take() else { return false };
        if rows.first().is_some_and(|(row, _)| row.len() >= self.row_max) {
            self.was_cut = true;
            return false;
        }
        let mut longer = Vec::new();
        for (row, before) in rows {
            for index in self.next_in_row(&frame.done, &row, &before, called) {
                self.comparisons += 1 + closed.len();
                let after = self.open_step(&before, index);
                // What has no effect is not needed; nor is what it writes over.
                let follows = |state: &M::State| Some(self.open_step(state, index));
                if after == before || self.has_idle(&frame.state, &row, follows, &after, Some(index)) {
                    continue;
                }
                let mut row = row.clone();
                row.push(index);
                for &closed in &closed {
                    let Some(next) = self.closed_step(&after, closed) else { continue };
                    let follows = |state: &M::State| self.closed_step(state, closed);
                    if !self.has_idle(&frame.state, &row, follows, &next, None) {
                        frame.untried.push((Step { open: row.clone(), closed }, next));
                    }
                }
                longer.push((row, after));
            }
        }
        // Those that end early in the order of returns first, as among steps without a row.
        frame.untried.sort_by_key(|(step, _)| closed.iter().position(|index| *index == step.closed));
        if longer.is_empty() {
            return !frame.untried.is_empty();
        }
        frame.rows = Some(Rows { rows: longer, closed, called });
        true
    }

    /// Whether one of the row's operations can be left out before what `follows`, or come
    /// behind it, and the same is held in the `end`. If an `open` operation follows, the last
    /// in the row comes behind it only if it was called later: else both could be tried first.
    fn has_idle(
        &self,
        state: &M::State,
        row: &[usize],
        follows: impl Fn(&M::State) -> Option<M::State>,
        end: &M::State,
        open: Option<usize>,
    ) -> bool {
        row.iter().any(|&idle| {
            let rest = row.iter().filter(|&&other| other != idle);
            let before = rest.fold(state.clone(), |state, &other| self.open_step(&state, other));
            let Some(without) = follows(&before) else { return false };
            let may_follow = open.is_none_or(|open| row.last() == Some(&idle) && open < idle);
            without == *end || may_follow && self.open_step(&without, idle) == *end
        })
    }

    fn contradiction(
        &self,
        part: &M::Part,
        (done, state, stranded): (Done, M::State, Option<usize>),
    ) -> Contradiction {
        let (closed, called) = self.candidates(&done);
        let open = self.next_in_row(&done, &[], &state, called);
        let closed = closed.into_iter().rev().map(|index| self.closed[index]);
        let next = closed.chain(open.into_iter().map(|index| self.open[index]));
        let next = match stranded {
            Some(index) => vec![self.closed[index]],
            None => next.collect(),
        };
        let stuck = next.into_iter().map(|operation| match &operation.returned {
            Some((returned, output)) => format!(
                "client {}, {}..{returned}: {:?} -> {output:?}",
                operation.client, operation.called, operation.input
            ),
            None => format!(
                "client {}, {}..: {:?} -> unknown",
                operation.client, operation.called, operation.input
            ),
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
