//! Structured logs on stderr.

use tracing_subscriber::{EnvFilter, filter::Directive, fmt, layer::SubscriberExt, util::SubscriberInitExt};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `ATOLL_LOG` sets what is logged, such as `info` or `atoll_records=debug`.
///
/// `s3s` writes the signatures that it computed at debug level, and whoever reads one can
/// replay the request; it stays at `info` whatever is asked.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("ATOLL_LOG")
        .from_env_lossy();
    let quiet: Directive = "s3s=info".parse().expect("a constant directive");
    let filter = filter.add_directive(quiet);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_target(true)).init(),
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).init(),
    }
}
