//! `atoll bench transport`: what a transport gives between two nodes. One side serves
//! [`Bench`], the other [`measure`]s: round trips of a small call, and bulk in each
//! direction in calls with a chunk's worth of body.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll_runtime::Runtime;
use atoll_types::{Format, NodeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{CallError, Caller, Handler, Message, Protocol, Refusal, Transport};

/// Longer than any call on a connection that works at all.
const CALL_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum BenchRequest {
    /// Answered with the same body.
    Echo,
    /// The body is thrown away.
    Take,
    /// Answered with a body of so many bytes.
    Give { bytes: u32 },
}

impl Format for BenchRequest {
    const NAME: &'static str = "bench request";
    const VERSION: u8 = 1;
}

/// The serving side of [`Protocol::Bench`].
pub struct Bench {
    zeros: Bytes,
}

impl Bench {
    /// The header was not a bench request.
    pub const MALFORMED: u16 = 1;
    /// More bytes were asked for than a body may have.
    pub const TOO_MANY: u16 = 2;
}

impl Default for Bench {
    fn default() -> Self {
        Self { zeros: Bytes::from(vec![0; Message::BODY_BYTES_MAX]) }
    }
}

#[async_trait]
impl Handler for Bench {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        let what = BenchRequest::decode(&request.header)
            .map_err(|error| Refusal { code: Self::MALFORMED, reason: error.to_string() })?;
        match what {
            BenchRequest::Echo => Ok(Message::with_body("", request.body)),
            BenchRequest::Take => Ok(Message::default()),
            BenchRequest::Give { bytes } => {
                let bytes = bytes as usize;
                if bytes > self.zeros.len() {
                    let reason = format!("a body has at most {} bytes", self.zeros.len());
                    return Err(Refusal { code: Self::TOO_MANY, reason });
                }
                Ok(Message::with_body("", self.zeros.slice(..bytes)))
            }
        }
    }
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchPlan {
    /// Of each of the three measurements.
    pub duration: Duration,
    /// Of one bulk call, at most [`Message::BODY_BYTES_MAX`].
    pub body_bytes: usize,
    /// Bulk calls in flight.
    pub concurrency: usize,
}

impl Default for BenchPlan {
    fn default() -> Self {
        Self { duration: Duration::from_secs(3), body_bytes: 1 << 20, concurrency: 4 }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchReport {
    pub round_trips: RoundTrips,
    /// From the measuring node to its peer.
    pub sent: Throughput,
    pub received: Throughput,
}

/// One empty call after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrips {
    pub count: usize,
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    pub bytes: u64,
    pub took: Duration,
}

impl Throughput {
    pub fn mib_per_second(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Measures the way to `peer`, which serves [`Bench`].
pub async fn measure(
    transport: &Arc<dyn Transport>,
    peer: NodeId,
    runtime: &Runtime,
    plan: BenchPlan,
) -> Result<BenchReport, CallError> {
    let body = Bytes::from(vec![0; plan.body_bytes.min(Message::BODY_BYTES_MAX)]);
    let take = Message::with_body(BenchRequest::Take.encode(), body.clone());
    let give = Message::header(BenchRequest::Give { bytes: body.len() as u32 }.encode());
    Ok(BenchReport {
        round_trips: round_trips(transport, peer, Protocol::Bench, runtime, plan.duration).await?,
        sent: throughput(transport, peer, runtime, plan, take).await?,
        received: throughput(transport, peer, runtime, plan, give).await?,
    })
}

/// Round trips of an empty call to `protocol`, where [`Bench`] is served.
pub async fn round_trips(
    transport: &Arc<dyn Transport>,
    peer: NodeId,
    protocol: Protocol,
    runtime: &Runtime,
    duration: Duration,
) -> Result<RoundTrips, CallError> {
    let echo = Message::header(BenchRequest::Echo.encode());
    let mut took = Vec::new();
    let mut now = runtime.now();
    let end = now + duration;
    while took.is_empty() || now < end {
        transport.call(peer, protocol, echo.clone(), CALL_LIMIT).await?;
        let then = std::mem::replace(&mut now, runtime.now());
        took.push(now - then);
    }
    took.sort_unstable();
    let quantile = |q: f64| took[((took.len() - 1) as f64 * q) as usize];
    Ok(RoundTrips {
        count: took.len(),
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
        max: quantile(1.0),
    })
}

async fn throughput(
    transport: &Arc<dyn Transport>,
    peer: NodeId,
    runtime: &Runtime,
    plan: BenchPlan,
    request: Message,
) -> Result<Throughput, CallError> {
    let start = runtime.now();
    let end = start + plan.duration;
    let workers: Vec<_> = (0..plan.concurrency.max(1))
        .map(|_| {
            let (transport, worker_runtime, request) = (transport.clone(), runtime.clone(), request.clone());
            runtime.spawn("bench worker", async move {
                let mut bytes = 0;
                while worker_runtime.now() < end {
                    let reply = transport.call(peer, Protocol::Bench, request.clone(), CALL_LIMIT).await?;
                    bytes += (request.body.len() + reply.body.len()) as u64;
                }
                Ok(bytes)
            })
        })
        .collect();
    let mut bytes = 0;
    for worker in workers {
        bytes += worker.await.unwrap_or(Err(CallError::Disconnected { peer }))?;
    }
    Ok(Throughput { bytes, took: runtime.now() - start })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Admission, memory::MemoryNetwork};

    struct Everyone;

    impl Admission for Everyone {
        fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn a_measurement_reports_what_went_through() {
        let network = MemoryNetwork::perfect();
        let runtime = Runtime::tokio();
        let a = network.endpoint(NodeId([1; 32]), runtime.clone());
        let b = network.endpoint(NodeId([2; 32]), runtime.clone());
        b.set_admission(Arc::new(Everyone));
        b.serve(Protocol::Bench, Arc::new(Bench::default()));
        let plan = BenchPlan { duration: Duration::from_millis(20), ..BenchPlan::default() };
        let report = measure(&a, b.node_id(), &runtime, plan).await.unwrap();
        assert!(report.round_trips.count > 0 && report.round_trips.p50 <= report.round_trips.max);
        for throughput in [report.sent, report.received] {
            assert!(throughput.bytes >= 1 << 20 && throughput.mib_per_second() > 0.0, "{throughput:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_is_none_and_one_for_too_much_are_refused() {
        let bench = Bench::default();
        let from = Caller::own(NodeId([1; 32]));
        let malformed = bench.call(from.clone(), Message::header("?")).await.unwrap_err();
        assert_eq!(malformed.code, Bench::MALFORMED);
        let give = Message::header(BenchRequest::Give { bytes: u32::MAX }.encode());
        assert_eq!(bench.call(from, give).await.unwrap_err().code, Bench::TOO_MANY);
    }
}
