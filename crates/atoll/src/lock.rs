//! `atoll lock`: run a command while holding a lock.

use std::{process::ExitCode, time::Duration};

use atoll_gateway::admin::api::{Done, LeaseRequest, LockAnswer, LockRequest};
use tokio::{process::Command, time::Instant};

use crate::{
    client::AdminClient,
    failure::{Failure, Fault},
};

/// Run a command while holding a lock.
///
/// The command finds the lock's fencing epoch in ATOLL_LOCK_EPOCH, which only grows: hand it
/// to what the lock protects, so that it refuses a holder that was overtaken. If the lock
/// is lost, the command is ended with SIGTERM, then SIGKILL.
#[derive(Debug, clap::Args)]
pub struct Lock {
    /// The lock's name.
    name: String,
    /// How long the lock outlives this process, should it or its machine die.
    #[arg(long = "for", default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    lifetime: Duration,
    /// Give up when the lock is not free within this time.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    wait: Option<Duration>,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Between two tries for a lock that another holds.
const RETRY_TIME: Duration = Duration::from_millis(250);
/// What an ended command gets to clean up, well within the least lifetime of a lock.
const TERMINATE_TIME: Duration = Duration::from_secs(2);

impl Lock {
    pub async fn run(self, client: &AdminClient) -> ExitCode {
        match self.hold(client).await {
            Ok(code) => code,
            Err(failure) => failure.print(),
        }
    }

    async fn hold(self, client: &AdminClient) -> Result<ExitCode, Failure> {
        let (lease, epoch, mut held_until) = self.acquire(client).await?;
        let request = LeaseRequest { name: self.name.clone(), lease };
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .env("ATOLL_LOCK_NAME", &self.name)
            .env("ATOLL_LOCK_EPOCH", epoch.to_string())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::new(Fault::Configuration, format!("can't run {:?}", self.command[0]))
                    .caused_by(&error)
            });
        let outcome = match &mut child {
            Err(_) => None,
            Ok(child) => loop {
                // Three signs of life in a lifetime: two may be lost.
                let next = Instant::now() + self.lifetime / 3;
                tokio::select! {
                    biased;
                    status = child.wait() => break Some(status),
                    () = tokio::time::sleep_until(next.min(held_until)) => {}
                }
                let sent = Instant::now();
                let kept = client.post::<LockAnswer>("/v1/locks/keep", &request);
                match tokio::time::timeout_at(held_until, kept).await {
                    Ok(Ok(answer)) if answer.acquired => held_until = sent + self.lifetime,
                    // Not lost yet: try again until it must be taken for lost.
                    Ok(Err(_)) if Instant::now() < held_until => {}
                    _ => {
                        eprintln!("error: the lock {:?} was lost; ending the command", self.name);
                        terminate(child).await;
                        return Ok(ExitCode::from(Fault::Unavailable as u8));
                    }
                }
            },
        };
        // If it can't be given back it ends by itself.
        let _ = client.post::<Done>("/v1/locks/release", &request).await;
        let status = match (child, outcome) {
            (Err(failure), _) => return Err(failure),
            (Ok(_), Some(Ok(status))) => status,
            (Ok(_), Some(Err(error))) => {
                return Err(Failure::new(Fault::Internal, "can't wait for the command").caused_by(&error));
            }
            (Ok(_), None) => unreachable!("the loop ends with a status"),
        };
        // As shells do: 128 and the signal's number.
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(ExitCode::from(code.clamp(0, 255) as u8))
    }

    async fn acquire(&self, client: &AdminClient) -> Result<(String, u64, Instant), Failure> {
        let give_up = self.wait.map(|wait| Instant::now() + wait);
        let owner = format!(
            "{}, process {}",
            nix::unistd::gethostname().unwrap_or_default().display(),
            std::process::id()
        );
        let mut told = false;
        loop {
            let sent = Instant::now();
            let request = LockRequest {
                name: self.name.clone(),
                owner: owner.clone(),
                for_seconds: self.lifetime.as_secs().max(1),
            };
            let answer: LockAnswer = client.post("/v1/locks/acquire", &request).await?;
            if let (true, Some(lease)) = (answer.acquired, answer.lease) {
                return Ok((lease, answer.epoch, sent + self.lifetime));
            }
            let holder = answer.held_by.unwrap_or_default();
            if give_up.is_some_and(|give_up| Instant::now() >= give_up) {
                return Err(Failure::new(
                    Fault::Unavailable,
                    format!("the lock {:?} is held by {holder}", self.name),
                ));
            }
            if !told {
                eprintln!("waiting for the lock {:?}, held by {holder}", self.name);
                told = true;
            }
            tokio::time::sleep(RETRY_TIME).await;
        }
    }
}

async fn terminate(child: &mut tokio::process::Child) {
    if let Some(pid) = child.id() {
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        // Gone already is as good.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(TERMINATE_TIME, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
