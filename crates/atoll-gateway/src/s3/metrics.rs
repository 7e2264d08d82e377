//! Requests by operation and outcome, as Prometheus sees them.

use std::time::Duration;

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

/// Cheap to clone: all clones count together.
#[derive(Clone)]
pub struct S3Metrics {
    requests: Family<Labels, Counter>,
    seconds: Family<OperationLabel, Histogram>,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    bytes_in: Counter,
    bytes_out: Counter,
}

/// From a memory hit to what a client's patience allows: 0.25 ms doubled 16 times is 16 s.
fn histogram() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_25, 2.0, 17))
}

impl Default for S3Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
        }
    }
}

impl S3Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("atoll_s3");
        registry.register("requests", "Requests answered, by operation and outcome", self.requests.clone());
        registry.register(
            "request_seconds",
            "Time from a request's headers to the answer's, by operation",
            self.seconds.clone(),
        );
        registry.register("requests_in_flight", "Requests being answered", self.in_flight.clone());
        registry.register("connections", "Open client connections", self.connections.clone());
        registry.register(
            "body_bytes_received",
            "Announced bytes of requests' bodies",
            self.bytes_in.clone(),
        );
        registry.register("body_bytes_sent", "Announced bytes of answers' bodies", self.bytes_out.clone());
    }

    pub(crate) fn answered(&self, operation: &'static str, status: StatusCode, elapsed: Duration) {
        self.requests.get_or_create(&Labels { operation, outcome: outcome(status) }).inc();
        self.seconds.get_or_create(&OperationLabel { operation }).observe(elapsed.as_secs_f64());
    }

    pub(crate) fn moved(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }
}

/// Few values, so that few series; the access log has the status.
fn outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        304 => "not_modified",
        404 => "not_found",
        412 => "precondition_failed",
        401 | 403 => "denied",
        501 => "not_implemented",
        503 => "unavailable",
        200..=399 => "ok",
        400..=499 => "client_error",
        _ => "server_error",
    }
}

/// Counts itself for as long as it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn in_gauge(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
