//! The network between the nodes: each node tells the others the address of a proxy of
//! ours, which passes bytes on, or does not.
//!
//! Who opened a connection is found by its socket: the nodes are our own child processes,
//! and the system says (`/proc`) which process has which socket. A cut is a direction
//! between two nodes in which nothing passes; what was under way arrives when it is mended,
//! unless the nodes have given up the connection.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use atoll_runtime::watch;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    task::JoinSet,
};

/// All proxies. A clone is another handle.
#[derive(Clone)]
pub struct Network {
    cuts: Arc<watch::Sender<BTreeSet<(usize, usize)>>>,
    /// The processes of the nodes that run.
    pids: Arc<Mutex<Vec<Option<u32>>>>,
}

/// Passed on at a time.
const PIECE_BYTES: usize = 64 << 10;

impl Network {
    pub fn new(nodes: usize) -> Self {
        Self { cuts: Arc::new(watch::Sender::default()), pids: Arc::new(Mutex::new(vec![None; nodes])) }
    }

    pub fn set_process(&self, node: usize, pid: Option<u32>) {
        self.pids.lock().expect("nobody panics holding it")[node] = pid;
    }

    /// Nothing passes in these directions any more.
    pub fn cut(&self, directions: impl IntoIterator<Item = (usize, usize)>) {
        self.cuts.send_modify(|cuts| cuts.extend(directions));
    }

    pub fn mend(&self) {
        self.cuts.send_modify(BTreeSet::clear);
    }

    /// A proxy for a node that listens on `port`; its address is what others are told.
    pub async fn proxy(&self, node: usize, port: u16, tasks: &mut JoinSet<()>) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let network = self.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((client, from)) = listener.accept().await else { return };
                connections.spawn(network.clone().connection(node, port, client, from));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(address)
    }

    async fn connection(self, to: usize, port: u16, client: TcpStream, from: SocketAddr) {
        let from = self.whose(from.port());
        self.passes(from, Some(to)).await;
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
        // Small frames are not to wait for each other.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_reads, client_writes) = client.into_split();
        let (server_reads, server_writes) = server.into_split();
        // One side that closes closes both.
        tokio::select! {
            biased;
            () = self.pass(from, Some(to), client_reads, server_writes) => {}
            () = self.pass(Some(to), from, server_reads, client_writes) => {}
        }
    }

    async fn pass(
        &self,
        from: Option<usize>,
        to: Option<usize>,
        mut reads: tcp::OwnedReadHalf,
        mut writes: tcp::OwnedWriteHalf,
    ) {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = reads.read(&mut piece).await {
            self.passes(from, to).await;
            if writes.write_all(&piece[..count]).await.is_err() {
                return;
            }
        }
    }

    /// Waits until bytes pass from one node to another. Between nodes that are not known
    /// they always do.
    async fn passes(&self, from: Option<usize>, to: Option<usize>) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let mut cuts = self.cuts.subscribe();
        // It can't fail: the sender is here.
        let _ = cuts.wait_for(|cuts| !cuts.contains(&(from, to))).await;
    }

    /// The node whose process has the socket with this local port.
    fn whose(&self, port: u16) -> Option<usize> {
        let socket = socket_of(port)?;
        let pids = self.pids.lock().expect("nobody panics holding it").clone();
        pids.iter().position(|pid| pid.is_some_and(|pid| has_socket(pid, &socket)))
    }
}

/// As `/proc` names it: `socket:[inode]`.
fn socket_of(port: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    // The address is in the machine's byte order, the port is not.
    let local = format!(":{port:04X}");
    let line = table
        .lines()
        .find(|line| line.split_whitespace().nth(1).is_some_and(|address| address.ends_with(&local)))?;
    let inode = line.split_whitespace().nth(9)?;
    Some(format!("socket:[{inode}]"))
}

fn has_socket(pid: u32, socket: &str) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Far above what a byte takes on loopback, and short enough to wait for in vain.
    const SOON: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Answers every byte with itself.
    async fn echo(listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let (mut reads, mut writes) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut reads, &mut writes).await });
        }
    }

    async fn answers(stream: &mut TcpStream, limit: Duration) -> bool {
        let mut byte = [0];
        matches!(tokio::time::timeout(limit, stream.read_exact(&mut byte)).await, Ok(Ok(_)))
    }

    /// A connection from node 1, which is this process, to node 0, with this direction cut;
    /// and what was sent meanwhile.
    async fn a_cut_holds_until_it_is_mended(cut: (usize, usize)) {
        let mut tasks = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tasks.spawn(echo(listener));
        let network = Network::new(2);
        network.set_process(1, Some(std::process::id()));
        let proxy = network.proxy(0, port, &mut tasks).await.unwrap();

        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        assert!(answers(&mut stream, PATIENCE).await, "nothing is cut");
        network.cut([cut]);
        stream.write_all(b"b").await.unwrap();
        assert!(!answers(&mut stream, SOON).await, "it passed a cut");
        network.mend();
        assert!(answers(&mut stream, PATIENCE).await, "it was lost");
    }

    #[tokio::test]
    async fn nothing_passes_to_a_node_that_is_cut_off() {
        a_cut_holds_until_it_is_mended((1, 0)).await;
    }

    #[tokio::test]
    async fn no_answer_passes_back_where_only_that_direction_is_cut() {
        a_cut_holds_until_it_is_mended((0, 1)).await;
    }

    #[tokio::test]
    async fn others_are_not_cut() {
        let mut tasks = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tasks.spawn(echo(listener));
        let network = Network::new(3);
        network.set_process(2, Some(std::process::id()));
        let proxy = network.proxy(0, port, &mut tasks).await.unwrap();
        network.cut([(1, 0), (0, 1)]);
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        assert!(answers(&mut stream, PATIENCE).await);
    }
}
