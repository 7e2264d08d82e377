//! The executor by itself: its time, its schedule, its crashes; and that the seed alone
//! decides.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use atoll_runtime::{Runtime, watch};
use atoll_simulation::{FaultPoints, NodeIndex, Schedule, Seed, Simulation, StopReason, Strike, TraceHash};
use atoll_types::Instant;
use rand::Rng;
use tokio::sync::{mpsc, oneshot};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn simulation(seed: u64) -> Simulation {
    Simulation::new(Seed(seed), Schedule::Shuffled)
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn an_hour_passes_at_once_and_exactly() {
    let simulation = simulation(1);
    let runtime = simulation.world_runtime();
    let passed = simulation.block_on(2 * HOUR, async move {
        let start = runtime.now();
        runtime.sleep(HOUR).await;
        runtime.now() - start
    });
    assert_eq!(passed, Ok(HOUR));
}

#[test]
fn timers_of_one_instant_fire_in_the_order_of_their_creation() {
    let simulation = Simulation::new(Seed(1), Schedule::Fifo);
    let log = Log::default();
    for name in ["a", "b", "c", "d"] {
        let (runtime, log) = (simulation.world_runtime(), log.clone());
        simulation.world_runtime().spawn("sleeper", async move {
            runtime.sleep(SECOND).await;
            log.add(name);
        });
    }
    simulation.run_for(SECOND).unwrap();
    assert_eq!(log.lines(), ["a", "b", "c", "d"]);
}

#[test]
fn a_timeout_ends_what_does_not_end_by_itself() {
    let simulation = simulation(1);
    let runtime = simulation.world_runtime();
    let result = simulation
        .block_on(HOUR, async move { runtime.timeout(SECOND, std::future::pending::<()>()).await.is_err() });
    assert_eq!(result, Ok(true));
    assert_eq!(simulation.now().as_nanos(), 1_000_000_000);
}

/// Channels, races, randomness, blocking work, many waiters on one watch: all that code
/// above the seams is made of.
fn busy_run(seed: u64) -> (TraceHash, Vec<String>) {
    let simulation = simulation(seed);
    let log = Log::default();
    let (level, levels) = watch::channel(0);
    let (tx, mut rx) = mpsc::channel::<u64>(4);
    for index in 0..3 {
        let node = simulation.add_node(format!("n{index}"));
        let runtime = simulation.node_runtime(node);
        for _ in 0..5 {
            let (mine, mut levels, tx, log) = (runtime.clone(), levels.clone(), tx.clone(), log.clone());
            runtime.spawn("worker", async move {
                let mut rng = mine.rng();
                while levels.changed().await.is_ok() {
                    let drawn = rng.random_range(0..1000);
                    mine.sleep(Duration::from_micros(drawn % 7)).await;
                    let doubled = mine.blocking(move || drawn * 2).await;
                    log.add(format!("{index} draws {drawn}"));
                    if tx.send(doubled).await.is_err() {
                        break;
                    }
                }
            });
        }
    }
    drop(tx);
    let runtime = simulation.world_runtime();
    let sum = simulation
        .block_on(HOUR, async move {
            let mut sum = 0;
            for round in 1..20 {
                level.send_replace(round);
                while let Ok(Some(drawn)) = runtime.timeout(SECOND, rx.recv()).await {
                    sum += drawn;
                }
            }
            sum
        })
        .unwrap();
    log.add(format!("sum {sum}"));
    (simulation.trace_hash(), log.lines())
}

#[test]
fn the_same_seed_is_the_same_run_and_another_seed_another() {
    let first = busy_run(7);
    for _ in 0..10 {
        assert_eq!(busy_run(7), first);
    }
    assert_ne!(busy_run(8).0, first.0);
}

/// The value is the same in a debug and in a release build, and on every machine: run
/// `cargo test -p atoll-simulation --release` to see for yourself. It changes when the
/// executor's decisions or the generator's version do, and then is simply replaced.
#[test]
fn the_trace_of_a_seed_is_the_same_in_every_build() {
    assert_eq!(busy_run(0xa7011).0.to_string(), "9e244bcabb330910568a19cd7a4dfc43");
}

struct CountsItsEnd(Arc<AtomicUsize>);

impl Drop for CountsItsEnd {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_crash_drops_all_of_a_nodes_tasks_and_no_others() {
    let simulation = simulation(1);
    let ended = Arc::new(AtomicUsize::new(0));
    let (a, b) = (simulation.add_node("a"), simulation.add_node("b"));
    let sleep_for_long = |node: NodeIndex| {
        let runtime = simulation.node_runtime(node);
        let guard = CountsItsEnd(Arc::clone(&ended));
        simulation.node_runtime(node).spawn("long", async move {
            let _guard = guard;
            runtime.sleep(HOUR).await;
        });
    };
    for _ in 0..3 {
        sleep_for_long(a);
        sleep_for_long(b);
    }
    simulation.run_for(SECOND).unwrap();
    simulation.faults().crash(a);
    assert_eq!(ended.load(Ordering::SeqCst), 3);
    simulation.run_for(HOUR).unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 6);
}

#[test]
fn what_a_crash_leaves_behind_can_do_nothing_and_the_next_life_can() {
    struct SpawnsAtItsEnd(Runtime, Log);
    impl Drop for SpawnsAtItsEnd {
        fn drop(&mut self) {
            let log = self.1.clone();
            self.0.spawn("leftover", async move { log.add("leftover") });
        }
    }

    let simulation = simulation(1);
    let log = Log::default();
    let node = simulation.add_node("a");
    let before = simulation.node_runtime(node);
    let guard = SpawnsAtItsEnd(before.clone(), log.clone());
    before.spawn("long", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    simulation.run_for(SECOND).unwrap();
    simulation.faults().crash(node);
    let late = log.clone();
    before.spawn("late", async move { late.add("late") });
    let next = log.clone();
    simulation.node_runtime(node).spawn("next", async move { next.add("next life") });
    simulation.run_for(SECOND).unwrap();
    assert_eq!(log.lines(), ["next life"]);
}

#[test]
fn a_task_of_the_world_may_crash_a_node_and_a_node_its_own_self() {
    let simulation = simulation(1);
    let ended = Arc::new(AtomicUsize::new(0));
    let (a, b) = (simulation.add_node("a"), simulation.add_node("b"));
    for victim in [a, b] {
        let guard = CountsItsEnd(Arc::clone(&ended));
        let faults = simulation.faults();
        let runtime = simulation.node_runtime(victim);
        simulation.node_runtime(victim).spawn("victim", async move {
            let _guard = guard;
            if victim == b {
                runtime.sleep(SECOND).await;
                faults.crash(b);
            }
            std::future::pending::<()>().await;
        });
    }
    let (faults, runtime) = (simulation.faults(), simulation.world_runtime());
    simulation.world_runtime().spawn("fault", async move {
        runtime.sleep(SECOND).await;
        faults.crash(a);
    });
    simulation.run_for(2 * SECOND).unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 2);
}

#[test]
fn a_panic_names_the_node_the_task_the_time_and_the_seed() {
    let simulation = simulation(0xbad);
    let node = simulation.add_node("frail");
    let runtime = simulation.node_runtime(node);
    simulation.node_runtime(node).spawn("driver", async move {
        runtime.sleep(SECOND).await;
        panic!("the log has a hole");
    });
    let error = simulation.run_for(HOUR).unwrap_err();
    assert_eq!(
        error.to_string(),
        "seed 0xbad, at 1s: task driver of node frail panicked: the log has a hole"
    );
}

#[test]
fn a_deadlock_is_told_with_who_waits() {
    let simulation = simulation(1);
    let (_tx, rx) = oneshot::channel::<()>();
    let node = simulation.add_node("patient");
    simulation.node_runtime(node).spawn("waiter", async move {
        let _ = rx.await;
    });
    let error = simulation.run_until(|| false, HOUR).unwrap_err();
    assert_eq!(error.reason, StopReason::Deadlock { waiting: vec!["patient/waiter".into()] });
}

#[test]
fn a_condition_that_never_comes_true_ends_at_its_limit() {
    let simulation = simulation(1);
    let runtime = simulation.world_runtime();
    simulation.world_runtime().spawn("ticker", async move {
        loop {
            runtime.sleep(SECOND).await;
        }
    });
    let error = simulation.run_until(|| false, HOUR).unwrap_err();
    assert_eq!(error.reason, StopReason::LimitReached { limit: HOUR });
    assert_eq!(error.at.as_nanos(), 3_600_000_000_000);
}

#[test]
fn tasks_that_only_wake_each_other_are_found_out() {
    let simulation = simulation(1);
    simulation.world_runtime().spawn(
        "spinner",
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            std::task::Poll::<()>::Pending
        }),
    );
    let error = simulation.run_for(SECOND).unwrap_err();
    assert_eq!(error.reason, StopReason::Stuck { busy: vec!["world/spinner".into()] });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the test is about a thread that should not be there")]
fn a_wake_from_another_thread_fails_the_run() {
    let simulation = simulation(1);
    let (tx, rx) = oneshot::channel();
    simulation.world_runtime().spawn("waiter", async move {
        let _ = rx.await;
    });
    simulation.run_for(SECOND).unwrap();
    std::thread::spawn(move || tx.send(())).join().unwrap().unwrap();
    assert_eq!(simulation.run_for(SECOND).unwrap_err().reason, StopReason::ForeignThread);
}

#[test]
fn a_paused_node_stands_still_and_then_catches_up() {
    let simulation = simulation(1);
    let node = simulation.add_node("sleepy");
    let ticks = Arc::new(AtomicUsize::new(0));
    let (runtime, counter) = (simulation.node_runtime(node), Arc::clone(&ticks));
    simulation.node_runtime(node).spawn("ticker", async move {
        loop {
            runtime.sleep(SECOND).await;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    simulation.run_for(5 * SECOND).unwrap();
    simulation.faults().pause(node);
    simulation.run_for(10 * SECOND).unwrap();
    assert_eq!(ticks.load(Ordering::SeqCst), 5);
    simulation.faults().resume(node);
    simulation.run_for(2 * SECOND).unwrap();
    // One for the tick that came due during the pause, and one for each second since.
    assert_eq!(ticks.load(Ordering::SeqCst), 8);
}

#[test]
fn each_node_has_a_wall_clock_and_a_generator_of_its_own() {
    let simulation = simulation(1);
    let (a, b) = (simulation.add_node("a"), simulation.add_node("b"));
    let (on_a, on_b) = (simulation.node_runtime(a), simulation.node_runtime(b));
    assert_eq!(on_a.wall_now(), on_b.wall_now());
    assert_ne!(on_a.transaction_id(), on_b.transaction_id());
    simulation.faults().jump_clock(a, HOUR, true);
    assert_eq!(on_a.wall_now().saturating_since(on_b.wall_now()), HOUR);
    assert_eq!(on_a.now(), on_b.now());
}

#[test]
fn an_aborted_task_is_dropped_before_its_next_step() {
    let simulation = simulation(1);
    let ended = Arc::new(AtomicUsize::new(0));
    let guard = CountsItsEnd(Arc::clone(&ended));
    let runtime = simulation.world_runtime();
    let owned = runtime.spawn_owned("loop", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    simulation.run_for(SECOND).unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 0);
    drop(owned);
    simulation.run_for(SECOND).unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

/// Stalls at one name, halts at another.
struct Places;

impl FaultPoints for Places {
    fn reached(&self, _node: NodeIndex, name: &'static str) -> Option<Strike> {
        match name {
            "stalls" => Some(Strike::Stall(Duration::from_secs(5))),
            "halts" => Some(Strike::Halt),
            _ => None,
        }
    }
}

#[test]
fn at_a_fault_point_a_task_stalls_or_its_node_halts_and_elsewhere_nothing_happens() {
    let simulation = Simulation::new(Seed(1), Schedule::Shuffled);
    simulation.set_fault_points(Arc::new(Places));
    let node = simulation.add_node("n");
    let runtime = simulation.node_runtime(node);
    let reached: Arc<Mutex<Vec<(&str, Instant)>>> = Arc::default();
    for name in ["harmless", "stalls", "halts"] {
        let (runtime, own, reached) = (runtime.clone(), runtime.clone(), reached.clone());
        drop(own.spawn(name, async move {
            runtime.sleep(Duration::from_secs(if name == "halts" { 10 } else { 0 })).await;
            runtime.fault_point(name).await;
            reached.lock().unwrap().push((name, runtime.now()));
            // Nothing on the node runs after the halt.
            runtime.sleep(Duration::from_secs(60)).await;
            reached.lock().unwrap().push(("too late", runtime.now()));
        }));
    }
    simulation.run_for(Duration::from_secs(100)).unwrap();
    let five = Instant::ORIGIN + Duration::from_secs(5);
    assert_eq!(*reached.lock().unwrap(), [("harmless", Instant::ORIGIN), ("stalls", five)]);
}
