//! `atoll bench`: what a store or a wire gives, measured from outside.

mod s3;
mod transport;

use crate::failure::Outcome;

#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    S3(Box<s3::BenchS3>),
    Transport(transport::BenchTransport),
}

impl BenchCommand {
    pub async fn run(self) -> Outcome {
        match self {
            BenchCommand::S3(bench) => bench.run().await,
            BenchCommand::Transport(bench) => bench.run().await,
        }
    }
}
