//! The transport between two processes on this machine, with plain TCP beside it:
//! `cargo run --release -p atoll-transport --example transport_bench [seconds]`.
#![allow(clippy::disallowed_methods, reason = "a program of its own: there is no seam above it")]

use std::{
    error::Error,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_runtime::Runtime;
use atoll_transport::{
    Admission, NodeKey, Protocol, Transport,
    bench::{Bench, BenchPlan, measure, round_trips},
    tls::{TlsSettings, TlsTransport},
};
use atoll_types::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// glibc's gives the pages of each chunk back to the kernel, and a third of the time goes
/// into getting them again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve().await,
        seconds => client(Duration::from_secs(seconds.unwrap_or("3").parse()?)).await,
    }
}

async fn bind(seed: u8, settings: TlsSettings) -> Result<Arc<TlsTransport>, Box<dyn Error>> {
    let key = NodeKey::from_seed([seed; 32]);
    Ok(TlsTransport::bind(&key, None, "127.0.0.1:0", Runtime::tokio(), settings).await?)
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let transport = bind(2, TlsSettings::default()).await?;
    transport.set_admission(Arc::new(Everyone));
    transport.serve(Protocol::Bench, Arc::new(Bench::default()));
    // Small calls of any other protocol go by the control line.
    transport.serve(Protocol::Cluster, Arc::new(Bench::default()));
    let plain = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {}", transport.local_addr(), plain.local_addr()?);
    loop {
        let (mut socket, _) = plain.accept().await?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 256 << 10];
            while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
    }
}

async fn client(duration: Duration) -> Result<(), Box<dyn Error>> {
    let mut server = Command::new(std::env::current_exe()?).arg("serve").stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line)?;
    let (tls, plain) = line.trim().split_once(' ').ok_or("the server said nothing")?;
    let result = measure_all(tls, plain, duration).await;
    server.kill()?;
    server.wait()?;
    result
}

async fn measure_all(tls: &str, plain: &str, duration: Duration) -> Result<(), Box<dyn Error>> {
    let peer = NodeKey::from_seed([2; 32]).node_id();
    for (bulk_connections, body_bytes, concurrency) in [
        (1, 1 << 20, 1),
        (1, 1 << 20, 4),
        (2, 1 << 20, 4),
        (4, 1 << 20, 4),
        (4, 4 << 20, 4),
        (4, 1 << 20, 16),
    ] {
        // Beside each measurement, since a shared machine is not the same from minute to minute.
        let baseline = plain_tcp(plain, duration).await?;
        let node = bind(1, TlsSettings { bulk_connections, ..TlsSettings::default() }).await?;
        let transport: Arc<dyn Transport> = node;
        transport.set_addresses(peer, vec![tls.to_owned()]);
        let plan = BenchPlan { duration, body_bytes, concurrency };
        let report = measure(&transport, peer, &Runtime::tokio(), plan).await?;
        let trips = report.round_trips;
        println!(
            "plain TCP {baseline:.0} MiB/s; {bulk_connections} bulk connections, {concurrency} calls of {} KiB: out {:.0} MiB/s ({:.0} %), \
             in {:.0} MiB/s ({:.0} %); round trip p50 {:?} p99 {:?}",
            body_bytes >> 10,
            report.sent.mib_per_second(),
            100.0 * report.sent.mib_per_second() / baseline,
            report.received.mib_per_second(),
            100.0 * report.received.mib_per_second() / baseline,
            trips.p50,
            trips.p99,
        );
    }
    beside_bulk(tls, peer, duration).await
}

/// What a small call waits for while chunks pass: on the connection that they are on, and
/// on one of its own.
async fn beside_bulk(tls: &str, peer: NodeId, duration: Duration) -> Result<(), Box<dyn Error>> {
    let node = bind(1, TlsSettings { bulk_connections: 1, ..TlsSettings::default() }).await?;
    let transport: Arc<dyn Transport> = node;
    transport.set_addresses(peer, vec![tls.to_owned()]);
    let runtime = Runtime::tokio();
    for (protocol, line) in [(Protocol::Bench, "the chunks' connection"), (Protocol::Cluster, "its own")] {
        let (load, load_runtime) = (transport.clone(), runtime.clone());
        // Two directions of bulk, each for longer than the round trips.
        let plan = BenchPlan { duration, body_bytes: 4 << 20, concurrency: 4 };
        let load = runtime.spawn("load", async move { measure(&load, peer, &load_runtime, plan).await });
        runtime.sleep(duration + duration / 10).await;
        let trips = round_trips(&transport, peer, protocol, &runtime, duration * 8 / 10).await?;
        load.await.ok_or("the load failed")??;
        println!(
            "a small call beside bulk, on {line}: p50 {:?} p99 {:?} max {:?}",
            trips.p50, trips.p99, trips.max
        );
    }
    Ok(())
}

/// MiB per second into a socket whose other end reads and forgets.
async fn plain_tcp(address: &str, duration: Duration) -> Result<f64, Box<dyn Error>> {
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
