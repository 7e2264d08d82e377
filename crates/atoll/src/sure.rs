//! Asking before what can't be undone.

use crate::{
    failure::{Failure, Fault, Outcome},
    node::confirm,
};

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Sure {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Sure {
    /// `deed` begins in lower case: "delete the key …".
    pub fn ask(self, deed: &str) -> Outcome {
        let question = format!("{}{}?", deed[..1].to_uppercase(), &deed[1..]);
        if self.yes || confirm(&question)? {
            return Ok(());
        }
        Err(Failure::new(Fault::Request, "nothing was changed"))
    }
}
