//! Structured logs on stderr.

use atoll_gateway::s3::may_log;
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `ATOLL_LOG` sets what is logged, such as `info` or `atoll_records=debug`.
///
/// What must not be logged ([`may_log`]) is not, whatever is asked.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("ATOLL_LOG")
        .from_env_lossy();
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(may_log));
    match format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_target(true)).init(),
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).init(),
    }
}
