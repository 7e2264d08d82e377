//! `atoll bench transport`: two processes of this program on loopback, with plain TCP
//! beside them in the same run.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_runtime::Runtime;
use atoll_transport::{
    Admission, NodeKey, Protocol, Transport,
    bench::{Bench, BenchPlan, measure},
    tls::{TlsSettings, TlsTransport},
};
use atoll_types::NodeId;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::{
    failure::{Failure, Fault, Outcome},
    output::{Output, table},
};

/// Round trips and bulk between two processes, beside plain TCP.
#[derive(Debug, clap::Args)]
pub struct BenchTransport {
    /// How long each measurement runs.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration, value_name = "TIME")]
    seconds: Duration,
    /// Calls in flight.
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// Be the other side.
    #[arg(long, hide = true)]
    serve: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct TransportReport {
    plain_tcp_mib_per_second: f64,
    sent_mib_per_second: f64,
    received_mib_per_second: f64,
    /// Sent and received together, against plain TCP.
    ratio_to_plain_tcp: f64,
    round_trip_p50_micros: f64,
    round_trip_p99_micros: f64,
}

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

fn internal(what: &str) -> impl Fn(&dyn std::error::Error) -> Failure {
    move |error| Failure::new(Fault::Internal, what).caused_by(error)
}

/// Both sides are this program, on loopback, for as long as a measurement takes.
const SERVER_SEED: [u8; 32] = [2; 32];
const CLIENT_SEED: [u8; 32] = [1; 32];

async fn bind(seed: [u8; 32]) -> Result<Arc<TlsTransport>, Failure> {
    let key = NodeKey::from_seed(seed);
    TlsTransport::bind(&key, None, "127.0.0.1:0", Runtime::tokio(), TlsSettings::default())
        .await
        .map_err(|error| internal("can't listen")(&error))
}

impl BenchTransport {
    pub async fn run(self) -> Outcome {
        if self.serve { serve().await } else { self.measure().await }
    }

    async fn measure(self) -> Outcome {
        let program = std::env::current_exe()
            .map_err(|error| internal("can't find this program's own file")(&error))?;
        let mut server = Command::new(program)
            .args(["bench", "transport", "--serve"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| internal("can't start the other side")(&error))?;
        let stdout = server.stdout.take().expect("stdout is piped");
        let line = BufReader::new(stdout).lines().next_line().await;
        let line = line.map_err(|error| internal("the other side said nothing")(&error))?.unwrap_or_default();
        let (tls, plain) = line
            .split_once(' ')
            .ok_or_else(|| Failure::new(Fault::Internal, "the other side did not start"))?;

        let baseline =
            plain_tcp(plain, self.seconds).await.map_err(|error| internal("plain TCP failed")(&error))?;
        let node = bind(CLIENT_SEED).await?;
        let transport: Arc<dyn Transport> = node;
        let peer = NodeKey::from_seed(SERVER_SEED).node_id();
        transport.set_addresses(peer, vec![tls.to_string()]);
        let plan =
            BenchPlan { duration: self.seconds, concurrency: self.concurrency, ..BenchPlan::default() };
        let report = measure(&transport, peer, &Runtime::tokio(), plan)
            .await
            .map_err(|error| internal("the measurement broke off")(&error))?;
        let (sent, received) = (report.sent.mib_per_second(), report.received.mib_per_second());
        let micros = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
        let report = TransportReport {
            plain_tcp_mib_per_second: baseline,
            sent_mib_per_second: sent,
            received_mib_per_second: received,
            ratio_to_plain_tcp: (sent + received) / 2.0 / baseline,
            round_trip_p50_micros: micros(report.round_trips.p50),
            round_trip_p99_micros: micros(report.round_trips.p99),
        };
        self.output.show(&report, |report| {
            let row = |name: &str, value: String| [name.to_string(), value];
            let rows = [
                row("plain TCP, MiB/s", format!("{:.0}", report.plain_tcp_mib_per_second)),
                row("sent, MiB/s", format!("{:.0}", report.sent_mib_per_second)),
                row("received, MiB/s", format!("{:.0}", report.received_mib_per_second)),
                row("ratio to plain TCP", format!("{:.2}", report.ratio_to_plain_tcp)),
                row("round trip p50, µs", format!("{:.0}", report.round_trip_p50_micros)),
                row("round trip p99, µs", format!("{:.0}", report.round_trip_p99_micros)),
            ];
            println!("{}", table(["MEASURED", "VALUE"], rows));
        });
        Ok(())
    }
}

async fn serve() -> Outcome {
    let transport = bind(SERVER_SEED).await?;
    transport.set_admission(Arc::new(Everyone));
    transport.serve(Protocol::Bench, Arc::new(Bench::default()));
    let plain = TcpListener::bind("127.0.0.1:0").await.map_err(|error| internal("can't listen")(&error))?;
    let address = plain.local_addr().map_err(|error| internal("can't listen")(&error))?;
    println!("{} {address}", transport.local_addr());
    loop {
        // One that broke off before it was accepted is no loss.
        let Ok((mut socket, _)) = plain.accept().await else { continue };
        tokio::spawn(async move {
            let mut buffer = vec![0; 256 << 10];
            while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
    }
}

/// MiB per second into a socket whose other end reads and forgets.
async fn plain_tcp(address: &str, duration: Duration) -> std::io::Result<f64> {
    let mut socket = TcpStream::connect(address).await?;
    let buffer = vec![0; 1 << 20];
    let start = Instant::now();
    let mut written = 0.0;
    while start.elapsed() < duration {
        socket.write_all(&buffer).await?;
        written += 1.0;
    }
    Ok(written / start.elapsed().as_secs_f64())
}
