//! `atoll bench s3`: drives any S3 store, ours or another's, and prints what it gives; two
//! stores in turns, or this run beside an earlier one, with ratios.
//!
//! Every byte that is got is compared with what was put. A run keeps to a bucket of its own,
//! or to a prefix in the user's, and takes away what it made, at Ctrl-C too.

mod body;
mod load;
mod parameters;
mod pool;
mod progress;
mod report;
mod store;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_runtime::Runtime;
use atoll_types::ByteSize;
use rand::{RngCore, rngs::StdRng};

use self::{
    body::Contents,
    load::{Asker, Order, Stretch, ask, fill, fill_replaced},
    parameters::{Mix, Operation, Parameters},
    pool::Pool,
    progress::Progress,
    report::{Measured, Report, Whose},
    store::{RequestError, Store, StorePlace, is_endpoint},
};
use crate::{
    dev::StopSignal,
    failure::{Failure, Fault, Outcome},
    output::Output,
};

/// Put, get, list, delete and more, at given sizes; operations, bytes and latencies.
///
/// Two stores are measured in turns with --against; an earlier run is put beside this one
/// with --compare.
#[derive(Debug, clap::Args)]
pub struct BenchS3 {
    /// The S3 endpoint; several of one store share the clients. [env: AWS_ENDPOINT_URL]
    #[arg(
        long,
        env = "AWS_ENDPOINT_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:9000",
        value_name = "URL",
        hide_env = true
    )]
    endpoint: Vec<String>,
    #[arg(long, env = "AWS_ACCESS_KEY_ID", hide_env_values = true)]
    access_key: String,
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: String,
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// What to do, in this order; `list` comes last, over the objects of all sizes.
    /// [default: put,get,list, or mixed if a mix is given]
    #[arg(long, value_delimiter = ',')]
    operations: Vec<Operation>,
    /// The shares of operations in `mixed`. [default: get=70,put=20,list=5,delete=5]
    #[arg(long, value_name = "SHARES")]
    mix: Option<Mix>,
    /// The object sizes.
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64MiB", value_name = "SIZES")]
    sizes: Vec<ByteSize>,
    /// How much of an object `range` gets. [default: 64 KiB, or the object if it is smaller]
    #[arg(long, value_name = "SIZE")]
    range: Option<ByteSize>,
    /// How many objects of a size there are at least before they are got, listed or deleted;
    /// what `put` left counts. [default: 256, or 1 GiB of them if that is less]
    #[arg(long, value_name = "N")]
    objects: Option<u64>,
    /// Requests in flight.
    #[arg(long, alias = "concurrency", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// How long each operation runs at each size, at each store.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Begin no more requests than these in each measurement, even if there is time.
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Seconds before each measurement that do not count; `delete` has none.
    #[arg(long, default_value_t = 1, value_name = "SECONDS")]
    warm_up: u64,
    /// Another store's endpoint, or several: both are measured in turns.
    #[arg(long, value_delimiter = ',', value_name = "URL", conflicts_with = "compare")]
    against: Vec<String>,
    /// The other store's access key. [default: as --access-key]
    #[arg(long, requires = "against", value_name = "KEY")]
    against_access_key: Option<String>,
    /// [env: ATOLL_BENCH_AGAINST_SECRET_KEY] [default: as --secret-key]
    #[arg(long, env = "ATOLL_BENCH_AGAINST_SECRET_KEY", value_name = "KEY", hide_env = true)]
    against_secret_key: Option<String>,
    /// How many seconds a store's turn takes.
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    slice: u64,
    /// An earlier run's JSON, which must have had the same parameters.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// A bucket that is there; this run keeps to a prefix in it. [default: a new one]
    #[arg(long)]
    bucket: Option<String>,
    /// Leave the objects, and the bucket.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: Output,
}

/// One of the stores that are measured, and what this run has there.
struct Side {
    whose: Whose,
    store: Arc<Store>,
    pools: BTreeMap<u64, Arc<Pool>>,
}

impl BenchS3 {
    pub async fn run(self) -> Outcome {
        let parameters = self.parameters()?;
        let earlier = match &self.compare {
            Some(path) => Some(Report::read(path, &parameters)?),
            None => None,
        };
        let mut rng = Runtime::tokio().rng();
        let sides = self.sides(&parameters, &mut rng)?;
        let mut stop = StopSignal::new()?;
        let mut report = Report::new(parameters, self.endpoint.clone(), self.against.clone());
        let measured = tokio::select! {
            biased;
            () = stop.received() => Err(Failure::new(Fault::Request, "stopped before it was done")),
            measured = self.measure_all(&sides, &mut report, rng) => measured,
        };
        let cleaned = tokio::select! {
            biased;
            () = stop.received() => Err(Failure::new(Fault::Request, "stopped before all was taken away")),
            cleaned = self.clean(&sides) => cleaned,
        };
        if measured.is_ok() {
            if let Some(earlier) = earlier {
                report.compare(&earlier);
            }
            self.output.show(&report, Report::show);
        }
        measured.and(report.verdict()).and(cleaned)
    }

    fn parameters(&self) -> Result<Parameters, Failure> {
        let bad = |message: String, hint: &str| Failure::new(Fault::Configuration, message).hint(hint);
        let operations = match (&self.operations[..], &self.mix) {
            ([], Some(_)) => vec![Operation::Mixed],
            ([], None) => vec![Operation::Put, Operation::Get, Operation::List],
            (given, _) => given.to_vec(),
        };
        let mix = match &self.mix {
            None if operations.contains(&Operation::Mixed) => {
                Some("get=70,put=20,list=5,delete=5".parse().expect("a good mix"))
            }
            given => given.clone(),
        };
        let parameters = Parameters {
            operations,
            mix,
            sizes_bytes: self.sizes.iter().map(|size| size.0).collect(),
            range_bytes: self.range.map(|range| range.0),
            objects: self.objects,
            clients: self.clients,
            seconds: self.seconds,
            requests: self.requests,
            warm_up_seconds: self.warm_up,
        };
        if let Some((message, hint)) = parameters.refusal() {
            return Err(bad(message, hint));
        }
        for endpoints in [&self.endpoint, &self.against] {
            if let Some(endpoint) = endpoints.iter().find(|endpoint| !is_endpoint(endpoint)) {
                return Err(bad(
                    format!("{endpoint:?} is not an S3 endpoint"),
                    "one looks like http://127.0.0.1:9000",
                ));
            }
            if endpoints.len() > usize::from(self.clients) {
                let message = format!("{} endpoints are more than {} clients", endpoints.len(), self.clients);
                return Err(bad(message, "some would get no request: give more --clients"));
            }
        }
        if !self.against.is_empty() && self.slice > self.seconds {
            let message = format!("a turn of {} s does not fit into {} s", self.slice, self.seconds);
            return Err(bad(message, "give a shorter --slice, or more --seconds"));
        }
        Ok(parameters)
    }

    fn sides(&self, parameters: &Parameters, rng: &mut StdRng) -> Result<Vec<Side>, Failure> {
        let run = format!("atoll-bench-{:08x}", rng.next_u32());
        let mut sides = Vec::new();
        for (whose, endpoints) in [(Whose::Tested, &self.endpoint), (Whose::Against, &self.against)] {
            if endpoints.is_empty() {
                continue;
            }
            let own_key = (self.access_key.as_str(), self.secret_key.as_str());
            let (access_key, secret_key) = match whose {
                Whose::Against => (
                    self.against_access_key.as_deref().unwrap_or(own_key.0),
                    self.against_secret_key.as_deref().unwrap_or(own_key.1),
                ),
                _ => own_key,
            };
            // Both may be the same store, to see how far a ratio strays by itself.
            let name = format!("{run}-{}", whose.name());
            let store = Arc::new(Store::new(&StorePlace {
                endpoints,
                access_key,
                secret_key,
                region: &self.region,
                bucket: self.bucket.as_deref().unwrap_or(&name),
                prefix: self.bucket.is_some().then_some(name.as_str()),
            })?);
            let contents = Contents::new(rand::SeedableRng::from_rng(rng));
            let pool = |size: &u64| (*size, Arc::new(Pool::new(*size, contents.clone(), store.prefix())));
            let pools = parameters.sizes_bytes.iter().map(pool).collect();
            sides.push(Side { whose, store, pools });
        }
        Ok(sides)
    }

    async fn measure_all(&self, sides: &[Side], report: &mut Report, mut rng: StdRng) -> Result<(), Failure> {
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
            plan.push((Operation::List, parameters.sizes_bytes[0]));
        }
        for (operation, size) in plan {
            let measured = self.measure(sides, &parameters, operation, size, &progress, &mut rng).await?;
            for part in measured[0].parts() {
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
            let reads = [Operation::Get, Operation::Range, Operation::List, Operation::Delete];
            if reads.into_iter().any(does) {
                let count = parameters.objects_of(size);
                let tick = |there| {
                    progress.show(format!("{label}, {}: {there} of {count} objects", side.whose.name()));
                };
                fill(askers(), count, tick).await.map_err(cannot)?;
            }
            if does(Operation::PutIfMatch) {
                fill_replaced(&side.store, pool, self.clients).await.map_err(cannot)?;
            }
            let keys = (operation == Operation::List)
                .then(|| side.pools.values().map(|pool| pool.count()).sum::<u64>())
                .filter(|_| side.pools.values().all(|pool| pool.is_sure()));
            let order = Order { operation, mix: mix.clone(), range_bytes: parameters.range_of(size), keys };
            turns.push(Turns {
                askers: Asker::some(self.clients, &side.store, pool, rng),
                order: Arc::new(order),
                label: format!("{label}, {}", side.whose.name()),
                measured: Measured { whose: side.whose, operation, size_bytes, slices: Vec::new() },
            });
        }
        // Nothing would be left of what is to be deleted.
        if operation != Operation::Delete && self.warm_up > 0 {
            for turns in &mut turns {
                let _ = turns.take(Duration::from_secs(self.warm_up), u64::MAX, "warming up", progress).await;
            }
        }
        let slices = if sides.len() > 1 { self.seconds.div_ceil(self.slice) } else { 1 };
        let time = Duration::from_secs(self.seconds).div_f64(slices as f64);
        let requests_max = parameters.requests.map_or(u64::MAX, |requests| requests.div_ceil(slices));
        for slice in 0..slices {
            let at = if slices > 1 { format!("slice {} of {slices}", slice + 1) } else { "measuring".into() };
            let mut taken = Vec::new();
            for place in 0..turns.len() as u64 {
                // Each is first as often as second.
                let index = ((slice + place) % turns.len() as u64) as usize;
                taken.push((index, turns[index].take(time, requests_max, &at, progress).await));
            }
            // With nothing left to delete at one of them, there is no pair.
            if slice > 0 && taken.iter().any(|(_, (seen, _))| seen.is_empty()) {
                break;
            }
            for (index, slice) in taken {
                turns[index].measured.slices.push(slice);
            }
        }
        Ok(turns.into_iter().map(|turns| turns.measured).collect())
    }

    async fn clean(&self, sides: &[Side]) -> Outcome {
        for Side { store, .. } in sides {
            let name = store.bucket_name();
            if self.keep {
                eprintln!("left: s3://{name}/{}", store.prefix());
                continue;
            }
            store.clean().await.map_err(|error| {
                let message = format!("not all of s3://{name}/{} could be taken away", store.prefix());
                Failure::new(Fault::Unavailable, message).caused_by(&error)
            })?;
        }
        Ok(())
    }
}

/// One store's turns in a measurement.
struct Turns {
    askers: Vec<Asker>,
    order: Arc<Order>,
    label: String,
    measured: Measured,
}

impl Turns {
    async fn take(
        &mut self,
        time: Duration,
        requests_max: u64,
        at: &str,
        progress: &Progress,
    ) -> (BTreeMap<Operation, load::Seen>, f64) {
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
