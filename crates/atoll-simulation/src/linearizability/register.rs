//! Registers with conditions: what an object store promises of each key. Each write has
//! a value of its own, which serves as its version and ETag.

use serde::{Deserialize, Serialize};

use super::{Acts, Model};

/// What a write writes: unlike any other write's, so that a read says whose it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value(pub u64);

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    None,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match`
    Is(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Get,
    Put(Value, Condition),
    Delete(Condition),
    /// Changes nothing; refused unless the key holds this, as an ETag tells it.
    Has(Value),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub key: String,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// A get found this, or nothing.
    Found(Option<Value>),
    /// A put or delete was done.
    Done,
    /// The condition did not hold; nothing was done.
    Refused,
}

/// Keys do not influence each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Registers;

impl Condition {
    pub fn holds(self, present: Option<Value>) -> bool {
        match self {
            Condition::None => true,
            Condition::Absent => present.is_none(),
            Condition::Is(value) => present.is_some_and(|present| present.content() == value.content()),
        }
    }
}

impl Action {
    /// What a single copy holding `present` answers, and holds then.
    pub fn apply(self, present: Option<Value>) -> (Output, Option<Value>) {
        match self {
            Action::Get => (Output::Found(present), present),
            Action::Put(value, condition) if condition.holds(present) => (Output::Done, Some(value)),
            Action::Delete(condition) if condition.holds(present) => (Output::Done, None),
            Action::Has(value) if Condition::Is(value).holds(present) => (Output::Done, present),
            Action::Put(..) | Action::Delete(_) | Action::Has(_) => (Output::Refused, present),
        }
    }

    /// What the key must have held, if the answer says that.
    pub(crate) fn needs(self, output: Output) -> Option<Option<u64>> {
        match (self, output) {
            (_, Output::Found(found)) => Some(found.map(Value::content)),
            (Action::Has(value), Output::Done) => Some(Some(value.content())),
            (Action::Put(_, condition) | Action::Delete(condition), Output::Done) => match condition {
                Condition::None => None,
                Condition::Absent => Some(None),
                Condition::Is(value) => Some(Some(value.content())),
            },
            (_, Output::Done | Output::Refused) => None,
        }
    }

    /// What the key holds after it, if it changes anything.
    pub(crate) fn gives(self) -> Option<Option<u64>> {
        match self {
            Action::Put(value, _) => Some(Some(value.content())),
            Action::Delete(_) => Some(None),
            Action::Get | Action::Has(_) => None,
        }
    }

    /// By what an ETag tells of the present value.
    pub(crate) fn acts(self) -> Acts<Option<u64>> {
        match self {
            Action::Put(_, condition) | Action::Delete(condition) => match condition {
                Condition::None => Acts::Everywhere,
                Condition::Absent => Acts::Where(None),
                Condition::Is(value) => Acts::Where(Some(value.content())),
            },
            Action::Get | Action::Has(_) => Acts::Perhaps,
        }
    }
}

impl Model for Registers {
    type Input = Input;
    type Output = Output;
    type State = Option<Value>;
    /// What an ETag tells of it.
    type Trigger = Option<u64>;
    type Part = String;

    fn initial(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, input: &Input, output: Option<&Output>) -> Option<Self::State> {
        let (answer, next) = input.action.apply(*state);
        (output.is_none() || output == Some(&answer)).then_some(next)
    }

    fn changes_nothing(&self, input: &Input, output: Option<&Output>) -> bool {
        matches!(input.action, Action::Get | Action::Has(_)) || output == Some(&Output::Refused)
    }

    fn acts(&self, input: &Input) -> Acts<Option<u64>> {
        input.action.acts()
    }

    fn triggers(&self, state: &Self::State) -> impl IntoIterator<Item = Option<u64>> {
        [state.map(Value::content)]
    }

    fn needs(&self, input: &Input, output: &Output) -> impl IntoIterator<Item = Option<u64>> {
        input.action.needs(*output)
    }

    fn gives(&self, input: &Input) -> impl IntoIterator<Item = Option<u64>> {
        input.action.gives()
    }

    fn parts(&self, inputs: &[&Input]) -> Vec<String> {
        inputs.iter().map(|input| input.key.clone()).collect()
    }
}
