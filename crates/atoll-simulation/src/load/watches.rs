//! Watching the records: each answer tells all changes since the one before.

use super::{Answer, Operation, Outcome, client::Caller, records};

#[derive(Default)]
pub(super) struct Watcher {
    /// Everything up to here was told.
    upto: Option<u64>,
}

impl Watcher {
    pub async fn watch(&mut self, caller: &mut Caller) {
        let watch = Operation::Watch { prefix: records::PREFIX.to_owned(), after: self.upto };
        match caller.ask(watch).await {
            Outcome::Answered(Answer::Changes { upto, .. }) => self.upto = Some(upto),
            Outcome::Answered(Answer::Compacted) => self.upto = None,
            _ => {}
        }
    }
}
