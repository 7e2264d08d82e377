//! Frames: a version byte and one foca packet. What comes in is taken apart before foca
//! sees it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use atoll_transport::{Caller, Handler, Message, Refusal};
use atoll_types::{Format, NodeId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use foca::Codec;
use tokio::sync::{mpsc, oneshot};

use crate::{driver::Command, identity::Life, sync::SyncRequest};

/// Below every usual MTU, so that a datagram is one packet where datagrams are packets.
pub const DATAGRAM_BYTES_MAX: usize = 1200;

const FRAME_VERSION: u8 = 1;

/// A frame that was received and holds together.
#[derive(Debug)]
pub(crate) struct Frame {
    /// What foca gets.
    pub(crate) packet: Bytes,
    pub(crate) src: Life,
    pub(crate) is_ack: bool,
    /// Members that the sender holds for suspect.
    pub(crate) suspects: Vec<Life>,
}

/// Why a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    Malformed,
    /// It claims another sender than the connection proved.
    Impersonation,
}

pub(crate) fn frame(packet: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + packet.len());
    frame.put_u8(FRAME_VERSION);
    frame.put_slice(packet);
    frame.freeze()
}

impl Frame {
    pub(crate) fn decode(from: &NodeId, mut frame: Bytes) -> Result<Self, FrameError> {
        if frame.is_empty() || frame.len() > DATAGRAM_BYTES_MAX || frame.get_u8() != FRAME_VERSION {
            return Err(FrameError::Malformed);
        }
        let mut rest = &frame[..];
        let header: foca::Header<Life> =
            foca::PostcardCodec.decode_header(&mut rest).map_err(|_| FrameError::Malformed)?;
        if header.src.node != *from {
            return Err(FrameError::Impersonation);
        }
        let mut suspects = Vec::new();
        let has_updates = header.message != foca::Message::Broadcast && rest.len() >= 2;
        for _ in 0..if has_updates { rest.get_u16() } else { 0 } {
            let member: foca::Member<Life> =
                foca::PostcardCodec.decode_member(&mut rest).map_err(|_| FrameError::Malformed)?;
            if member.state() == foca::State::Suspect {
                suspects.push(*member.id());
            }
        }
        let is_ack = matches!(header.message, foca::Message::Ack(_) | foca::Message::ForwardedAck { .. });
        Ok(Self { packet: frame, src: header.src, is_ack, suspects })
    }
}

/// Whom an outgoing packet probes, if that is what it does.
pub(crate) fn probed_by(packet: &[u8]) -> Option<NodeId> {
    let header: foca::Header<Life> = foca::PostcardCodec.decode_header(packet).ok()?;
    matches!(header.message, foca::Message::Ping(_)).then_some(header.dst.node)
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub frames_sent: u64,
    pub frames_received: u64,
    /// Refused: not understood, or naming another sender than the connection's.
    pub frames_refused: u64,
    /// The driver was behind.
    pub frames_dropped: u64,
    pub probes_unanswered: u64,
    /// Times the others held this node for dead and it went on as another.
    pub resurrections: u64,
    /// 0 is healthy; probes and suspicions take 1 + this times as long.
    pub local_health: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) frames_sent: AtomicU64,
    pub(crate) frames_received: AtomicU64,
    pub(crate) frames_refused: AtomicU64,
    pub(crate) frames_dropped: AtomicU64,
    pub(crate) probes_unanswered: AtomicU64,
    pub(crate) resurrections: AtomicU64,
    pub(crate) local_health: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            frames_sent: read(&self.frames_sent),
            frames_received: read(&self.frames_received),
            frames_refused: read(&self.frames_refused),
            frames_dropped: read(&self.frames_dropped),
            probes_unanswered: read(&self.probes_unanswered),
            resurrections: read(&self.resurrections),
            local_health: read(&self.local_health),
        }
    }
}

/// The transport's end: checks, and hands on to the driver.
pub(crate) struct Inbox {
    pub(crate) commands: mpsc::WeakSender<Command>,
    pub(crate) counters: Arc<Counters>,
}

/// Refusals of this protocol.
const MALFORMED: u16 = 1;
const STOPPED: u16 = 2;

#[async_trait]
impl Handler for Inbox {
    async fn call(&self, from: Caller, request: Message) -> Result<Message, Refusal> {
        let refuse = |code, reason: &str| Refusal { code, reason: reason.into() };
        let request = SyncRequest::decode(&request.body).map_err(|error| {
            count(&self.counters.frames_refused);
            refuse(MALFORMED, &error.to_string())
        })?;
        if request.me.info.node != from.node || request.me.info.check().is_err() {
            count(&self.counters.frames_refused);
            return Err(refuse(MALFORMED, "the facts are not the caller's own, or too large"));
        }
        let stopped = || refuse(STOPPED, "membership has stopped");
        let commands = self.commands.upgrade().ok_or_else(stopped)?;
        let (reply, replied) = oneshot::channel();
        commands
            .send(Command::SyncAsked { request: Box::new(request), reply })
            .await
            .map_err(|_| stopped())?;
        let reply = replied.await.map_err(|_| stopped())?;
        Ok(Message::with_body(Bytes::new(), reply.encode()))
    }

    fn datagram(&self, from: &Caller, payload: Bytes) {
        count(&self.counters.frames_received);
        let Ok(frame) = Frame::decode(&from.node, payload) else {
            return count(&self.counters.frames_refused);
        };
        let Some(commands) = self.commands.upgrade() else { return };
        if commands.try_send(Command::Received { frame: Box::new(frame) }).is_err() {
            count(&self.counters.frames_dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::Generation;
    use foca::{Header, Message, State};

    use super::*;

    fn life(number: u8) -> Life {
        Life { node: NodeId([number; 32]), generation: Generation(3), resurrections: 0 }
    }

    fn packet(message: Message<Life>, updates: &[foca::Member<Life>]) -> Bytes {
        let mut packet = Vec::new();
        let header = Header { src: life(1), src_incarnation: 0, dst: life(2), message };
        foca::PostcardCodec.encode_header(&header, &mut packet).unwrap();
        packet.put_u16(updates.len() as u16);
        for update in updates {
            foca::PostcardCodec.encode_member(update, &mut packet).unwrap();
        }
        frame(&packet)
    }

    #[test]
    fn a_frame_says_who_sent_it_whether_it_answers_and_whom_it_suspects() {
        let suspect = foca::Member::new(life(9), 4, State::Suspect);
        let bytes = packet(Message::Ack(7), &[foca::Member::alive(life(8)), suspect]);
        let frame = Frame::decode(&life(1).node, bytes).unwrap();
        assert_eq!((frame.src, frame.is_ack, frame.suspects), (life(1), true, vec![life(9)]));
    }

    #[test]
    fn a_frame_in_anothers_name_is_impersonation_and_a_cut_one_is_malformed() {
        let bytes = packet(Message::Ping(7), &[foca::Member::alive(life(8))]);
        let refused = |from: u8, bytes: Bytes| Frame::decode(&life(from).node, bytes).unwrap_err();
        assert_eq!(refused(2, bytes.clone()), FrameError::Impersonation);
        for cut in [0, 1, 20, bytes.len() - 1] {
            assert_eq!(refused(1, bytes.slice(..cut)), FrameError::Malformed);
        }
    }

    #[test]
    fn only_a_ping_probes() {
        let mut ping = packet(Message::Ping(7), &[]);
        ping.advance(1);
        assert_eq!(probed_by(&ping), Some(life(2).node));
        let mut gossip = packet(Message::Gossip, &[]);
        gossip.advance(1);
        assert_eq!(probed_by(&gossip), None);
    }
}
