//! Objects uploaded in parts, in one go or so slowly that sweeps pass meanwhile.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng;

use super::{Answer, Operation, Outcome, client::Caller};
use crate::linearizability::register::{Condition, Value};

/// True if the object is there now.
pub(super) async fn upload(
    caller: &mut Caller,
    key: String,
    value: Value,
    condition: Condition,
    abort: bool,
    pause: Option<RangeInclusive<Duration>>,
    go_on: &Arc<AtomicBool>,
) -> bool {
    let create = Operation::CreateUpload { key: key.clone(), value };
    let Outcome::Answered(Answer::Upload(upload)) = caller.ask(create).await else { return false };
    let wait = async |caller: &mut Caller| {
        if let Some(pause) = &pause {
            let pause = caller.rng.random_range(pause.clone());
            caller.runtime.sleep(pause).await;
        }
        go_on.load(Ordering::Relaxed)
    };
    for part in 1..=value.part_count() {
        if !wait(caller).await {
            return false;
        }
        let (key, upload) = (key.clone(), upload.clone());
        let outcome = caller.ask(Operation::UploadPart { key, upload, value, part }).await;
        if outcome != Outcome::Answered(Answer::Done) {
            return false;
        }
    }
    if !wait(caller).await {
        return false;
    }
    if abort {
        caller.ask(Operation::AbortUpload { key, upload }).await;
        return false;
    }
    let outcome = caller.ask(Operation::CompleteUpload { key, upload, value, condition }).await;
    outcome == Outcome::Answered(Answer::Done)
}
