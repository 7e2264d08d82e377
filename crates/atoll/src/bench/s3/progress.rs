//! One line on a terminal that says how far it is; elsewhere nothing.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is faster needs no progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(250);

pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    on_terminal: bool,
}

impl Progress {
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("our own template is valid"));
        Self { bar, began: Instant::now(), on_terminal: std::io::stderr().is_terminal() }
    }

    pub fn show(&self, line: String) {
        if self.on_terminal && self.bar.is_hidden() && self.began.elapsed() >= PROGRESS_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_message(line);
        self.bar.tick();
    }

    /// A line that stays, above the one that moves.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
