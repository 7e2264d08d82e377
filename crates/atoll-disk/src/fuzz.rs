//! Fuzz targets: the shared log, opened on a disk that is not as it was left.

pub use crate::log::fuzz::{log, log_seeds};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_hold() {
        fuzz::exercise_times(log, log_seeds(), 1_000);
    }
}
