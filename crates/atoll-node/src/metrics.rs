//! This node's counters for `/metrics`, read from its parts at each scrape.

use std::{fmt, sync::Arc};

use atoll_transport::tls::TlsTransport;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::node::Node;

pub struct NodeMetrics {
    pub node: Node,
    pub transport: Arc<TlsTransport>,
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeMetrics({:?})", self.node.id())
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let transport = self.transport.counters();
        let usage = self.node.inner.chunks.usage();
        let layout = self.node.layout();
        let view = self.node.inner.membership.view().borrow().clone();
        let counters = [
            ("atoll_transport_bytes_received", "Bytes received from other nodes", transport.bytes_in),
            ("atoll_transport_bytes_sent", "Bytes sent to other nodes", transport.bytes_out),
            (
                "atoll_chunk_bytes_served",
                "Bytes of chunks sent to other nodes that asked for them",
                self.node.objects().chunk_bytes_served(),
            ),
        ];
        let overlay = self.node.inner.overlay.as_ref().map(|overlay| overlay.counters().numbers());
        for (name, help, value) in counters.into_iter().chain(overlay.into_iter().flatten()) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges = [
            ("atoll_chunks", "Chunks kept on this node", usage.chunks),
            ("atoll_chunk_live_bytes", "Bytes of chunks kept on this node", usage.live_bytes),
            ("atoll_layout_version", "The newest layout that this node knows", layout.version()),
            (
                "atoll_members_reachable",
                "Nodes that this node holds for reachable",
                view.reachable().count() as u64,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
