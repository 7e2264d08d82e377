//! `atoll bench s3`: drives any S3 store, ours or another's, and prints what it gives; two
//! stores in turns, or this run beside an earlier one, with ratios.
//!
//! Every byte that is got is compared with what was put. A run keeps to a bucket of its own,
//! or to a prefix in the user's, and takes away what it made, at Ctrl-C too.

mod body;
mod load;
mod measure;
mod parameters;
mod pool;
mod progress;
mod report;
mod store;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use atoll_runtime::Runtime;
use atoll_types::ByteSize;
use rand::{RngCore, rngs::StdRng};

use self::{
    body::Contents,
    parameters::{Mix, Operation, Parameters},
    pool::Pool,
    report::{Report, Whose},
    store::{Store, StorePlace, is_endpoint},
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
    /// What to do, in this order; `list` comes last, over the objects of all sizes that are got.
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
    /// How many objects of a size are made to be got, or listed; what `put` makes is not read.
    /// To be deleted there are so many at least, with what `put` left. [default: 256, for `list`
    /// 5000, or 1 GiB of them if that is less]
    #[arg(long, value_name = "N")]
    objects: Option<u64>,
    /// Requests in flight.
    #[arg(long, alias = "concurrency", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// How long each operation runs at each size, at each store.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Begin no more requests than these in each measurement, even if there is time; with
    /// --against at each store, in all its turns.
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Seconds before each measurement that do not count, unless the store answers wrongly;
    /// `delete` has none.
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
    /// A bucket that is there; this run keeps to a prefix in it. One with versions keeps the
    /// versions of what is taken away. [default: a new one]
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
        // Puts that were cut off may still arrive.
        let cut_off = measured.is_err();
        let cleaned = tokio::select! {
            biased;
            () = stop.received() => {
                for Side { store, .. } in sides.iter().filter(|side| side.store.is_used()) {
                    eprintln!("left: {}", store.place());
                }
                Err(Failure::new(Fault::Request, "stopped before all was taken away"))
            }
            cleaned = self.clean(&sides, cut_off) => cleaned,
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

    /// All of them, even if one fails, and says where something is left.
    async fn clean(&self, sides: &[Side], cut_off: bool) -> Outcome {
        let mut cleaned = Ok(());
        for Side { store, .. } in sides.iter().filter(|side| side.store.is_used()) {
            if self.keep {
                eprintln!("left: {}", store.place());
                continue;
            }
            if let Err(error) = store.clean(cut_off).await {
                eprintln!("not all of {} could be taken away: {error}", store.place());
                let message = "not all that this run made could be taken away";
                cleaned = cleaned.and(Err(Failure::new(Fault::Unavailable, message).caused_by(&error)));
            }
        }
        cleaned
    }
}
