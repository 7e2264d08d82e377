//! `atoll key-file`

use std::path::PathBuf;

use atoll_node::key_file::{self, KeyFileError};
use serde::Serialize;

use crate::{
    failure::{Failure, Fault, Outcome},
    output::Output,
};

#[derive(Debug, clap::Subcommand)]
pub enum KeyFileCommand {
    /// Make a root key in a new file, for `atoll up --key-file` at every node. Keep a copy: what
    /// is encrypted with it is lost without it.
    Create {
        path: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Say which root key a file holds, without showing it.
    Show {
        path: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Serialize)]
struct RootKeyFile {
    path: PathBuf,
    root_key: String,
}

impl KeyFileCommand {
    pub fn run(self) -> Outcome {
        let (path, output, root_key) = match self {
            KeyFileCommand::Create { path, output } => {
                let id = key_file::create(&path).map_err(failure)?;
                (path, output, id)
            }
            KeyFileCommand::Show { path, output } => {
                let id = key_file::read(&path).map_err(failure)?.id();
                (path, output, id)
            }
        };
        let shown = RootKeyFile { path, root_key: root_key.to_string() };
        output
            .show(&shown, |shown| println!("{} holds the root key {}", shown.path.display(), shown.root_key));
        Ok(())
    }
}

fn failure(error: KeyFileError) -> Failure {
    Failure::from_error(Fault::Configuration, &error)
}
