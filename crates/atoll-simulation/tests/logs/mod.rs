//! What the nodes log, for a replay: `ATOLL_SEED=0x2a ATOLL_LOG=debug cargo test …`.

use tracing_subscriber::EnvFilter;

/// Shows logs if `ATOLL_LOG` asks for them.
pub fn if_asked() {
    let Ok(filter) = std::env::var("ATOLL_LOG") else { return };
    let subscriber = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).without_time();
    // Another test of this process may have been first.
    let _ = subscriber.with_test_writer().try_init();
}
