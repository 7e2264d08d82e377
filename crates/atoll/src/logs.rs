//! Structured logs on stderr.

use atoll_gateway::s3::may_log;
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The ordered store tells at `info` how it goes about its files, which is of no use to
/// whoever runs a node.
const USUAL: &str = "info,fjall=warn,lsm_tree=warn";

/// `ATOLL_LOG` sets what is logged, such as `info` or `atoll_records=debug`.
///
/// `s3s` writes requests with their keys, and signatures that it computed, at debug level: it
/// is silent whatever is asked.
pub fn start(format: LogFormat) {
    let asked = std::env::var("ATOLL_LOG").ok().filter(|asked| !asked.is_empty());
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse_lossy(asked.as_deref().unwrap_or(USUAL));
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(may_log));
    match format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_target(true)).init(),
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).init(),
    }
}

/// For `atoll simulate`: silent unless `ATOLL_LOG` is set. Each line has its virtual time
/// and node; the time of day would make two logs of one run differ.
pub fn start_replay() {
    let Ok(filter) = EnvFilter::try_from_env("ATOLL_LOG") else { return };
    let layer = fmt::layer().with_writer(std::io::stderr).without_time();
    tracing_subscriber::registry().with(filter).with(filter_fn(may_log)).with(layer).init();
}
