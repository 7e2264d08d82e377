//! One operation after the other, at one store or at two in turns. What a request is, and what
//! is made of the figures, is known elsewhere. Tested from outside, in tests/bench.rs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_types::ByteSize;
use rand::rngs::StdRng;

use super::{
    BenchS3, Side,
    load::{Asker, Order, Seen, Stretch, ask, fill, fill_replaced},
    parameters::{Operation, Parameters},
    pool::Set,
    progress::Progress,
    report::{Measured, Report},
    store::RequestError,
};
use crate::failure::{Failure, Fault};

impl BenchS3 {
    pub(super) async fn measure_all(
        &self,
        sides: &[Side],
        report: &mut Report,
        mut rng: StdRng,
    ) -> Result<(), Failure> {
        for side in sides {
            side.store.open().await?;
        }
        let progress = Progress::new();
        let parameters = report.parameters.clone();
        let sized = parameters.operations.iter().filter(|operation| **operation != Operation::List);
        let sized: Vec<Operation> = sized.copied().collect();
        let mut plan: Vec<(Operation, u64)> = Vec::new();
        for &size in &parameters.sizes_bytes {
            plan.extend(sized.iter().map(|operation| (*operation, size)));
        }
        if parameters.operations.contains(&Operation::List) {
            // The more there must be to list, the smaller they had better be.
            plan.push((Operation::List, parameters.shortest()));
        }
        for (operation, size) in plan {
            let measured = self.measure(sides, &parameters, operation, size, &progress, &mut rng).await?;
            // What one store had no time for, the other may have done.
            let parts: BTreeSet<Option<Operation>> = measured.iter().flat_map(Measured::parts).collect();
            for part in parts {
                for measured in &measured {
                    if let (None, Some(error)) = (part, measured.seen(None).first_error) {
                        let row = measured.row(None);
                        let codes = row.errors_by_code.iter().map(|(code, count)| format!("{count} {code}"));
                        let codes = codes.collect::<Vec<_>>().join(", ");
                        progress.say(&format!("{} failed: {codes}; the first: {error}", row.operation));
                    }
                    report.rows.push(measured.row(part));
                }
                if let [ours, theirs] = &measured[..] {
                    report.ratios.push(ours.ratio(theirs, part));
                }
            }
        }
        Ok(())
    }

    /// One operation at one size, at each store.
    async fn measure(
        &self,
        sides: &[Side],
        parameters: &Parameters,
        operation: Operation,
        size: u64,
        progress: &Progress,
        rng: &mut StdRng,
    ) -> Result<Vec<Measured>, Failure> {
        let mix = parameters.mix.clone().filter(|_| operation == Operation::Mixed);
        let does = |what| operation == what || mix.as_ref().is_some_and(|mix| mix.has(what));
        let (size_bytes, label) = match operation {
            Operation::List => (0, operation.name()),
            _ => (size, format!("{} {}", operation.name(), ByteSize(size))),
        };
        let mut turns = Vec::new();
        for side in sides {
            let pool = &side.pools[&size];
            let askers = || Asker::some(self.clients, &side.store, pool, &mut rng.clone());
            let cannot = |error: RequestError| {
                let message = format!("the {} store does not take what to read", side.whose.name());
                Failure::new(Fault::Unavailable, message).caused_by(&error)
            };
            let count = parameters.objects_of(operation, size);
            let reads = [Operation::Get, Operation::Range, Operation::List].into_iter().any(does);
            for (set, needed) in [(Set::Fixed, reads), (Set::Written, does(Operation::Delete))] {
                let tick = |there| {
                    progress.show(format!("{label}, {}: {there} of {count} objects", side.whose.name()));
                };
                if needed {
                    fill(askers(), set, count, tick).await.map_err(cannot)?;
                }
            }
            if does(Operation::PutIfMatch) {
                fill_replaced(&side.store, pool, self.clients).await.map_err(cannot)?;
            }
            let keys = side.pools.values().map(|pool| pool.count(Set::Fixed)).sum();
            let order = Order { operation, mix: mix.clone(), range_bytes: parameters.range_of(size), keys };
            turns.push(Turns {
                askers: Asker::some(self.clients, &side.store, pool, rng),
                order: Arc::new(order),
                label: format!("{label}, {}", side.whose.name()),
                requests_left: parameters.requests.unwrap_or(u64::MAX),
                measured: Measured {
                    whose: side.whose,
                    operation,
                    size_bytes,
                    slices: Vec::new(),
                    warm_up: BTreeMap::new(),
                },
            });
        }
        if does(Operation::Delete) {
            // The store that took more puts has no more to delete for it.
            let counts = sides.iter().map(|side| side.pools[&size].count(Set::Written));
            let fewest = counts.min().unwrap_or_default();
            for side in sides {
                side.pools[&size].forget_beyond(fewest);
            }
        }
        // Nothing would be left of what is to be deleted.
        if operation != Operation::Delete && self.warm_up > 0 {
            for turns in &mut turns {
                let time = Duration::from_secs(self.warm_up);
                let (seen, _) = turns.take(time, u64::MAX, "warming up", progress).await;
                let lies = seen.into_iter().filter_map(|(operation, seen)| Some((operation, seen.lies()?)));
                turns.measured.warm_up = lies.collect();
            }
        }
        let slices = if sides.len() > 1 { self.seconds.div_ceil(self.slice) } else { 1 };
        let time = Duration::from_secs(self.seconds).div_f64(slices as f64);
        for slice in 0..slices {
            // With no requests left at one of them, there is no pair.
            if turns.iter().any(|turns| turns.requests_left == 0) {
                break;
            }
            let at = if slices > 1 { format!("slice {} of {slices}", slice + 1) } else { "measuring".into() };
            let mut taken = Vec::new();
            for place in 0..turns.len() as u64 {
                // Each is first as often as second.
                let index = ((slice + place) % turns.len() as u64) as usize;
                let requests_max = turns[index].requests_left;
                let (seen, seconds) = turns[index].take(time, requests_max, &at, progress).await;
                let begun: u64 = seen.values().map(Seen::begun).sum();
                turns[index].requests_left = requests_max.saturating_sub(begun);
                taken.push((index, (seen, seconds)));
            }
            // With nothing left to delete at one of them, there is none either.
            if slice > 0 && taken.iter().any(|(_, (seen, _))| seen.is_empty()) {
                break;
            }
            for (index, slice) in taken {
                turns[index].measured.slices.push(slice);
            }
        }
        Ok(turns.into_iter().map(|turns| turns.measured).collect())
    }
}

/// One store's turns in a measurement.
struct Turns {
    askers: Vec<Asker>,
    order: Arc<Order>,
    label: String,
    requests_left: u64,
    measured: Measured,
}

impl Turns {
    async fn take(
        &mut self,
        time: Duration,
        requests_max: u64,
        at: &str,
        progress: &Progress,
    ) -> (BTreeMap<Operation, Seen>, f64) {
        let began = Instant::now();
        let done = Arc::new(AtomicU64::new(0));
        let stretch = Arc::new(Stretch {
            until: began + time,
            requests_max,
            begun: AtomicU64::new(0),
            done: done.clone(),
        });
        let label = &self.label;
        let tick = || {
            let (seconds, count) = (began.elapsed().as_secs_f64(), done.load(Ordering::Relaxed));
            progress.show(format!(
                "{label}: {at}, {seconds:.0} of {:.0} s, {count} requests, {:.0}/s",
                time.as_secs_f64(),
                count as f64 / seconds.max(0.001)
            ));
        };
        ask(&mut self.askers, &self.order, &stretch, tick).await
    }
}
