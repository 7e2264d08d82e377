//! Tickets: what a new node needs in order to join, as one word that can be pasted.
//!
//! A ticket names the nodes that issued it by their keys, so that whoever answers in
//! their place is refused by TLS, and carries a secret that is never sent: the joiner
//! proves that it has it by a MAC over the session it speaks on and its own key.

use std::{fmt, str::FromStr};

use atoll_types::{ClusterId, Format, FormatError, NodeId};
use serde::{Deserialize, Serialize};

/// Names a ticket in shard 0's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TicketId(pub [u8; 16]);

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// 256 bits, drawn when the ticket is made. Kept in shard 0 until it expires.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSecret(pub [u8; 32]);

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

impl TicketSecret {
    /// What the joiner sends: worth something on this session and for this key only.
    pub fn proof(&self, channel_binding: &[u8; 32], joiner: &NodeId) -> [u8; 32] {
        let mut mac = blake3::Hasher::new_keyed(&self.0);
        mac.update(b"atoll/join/1 ticket proof");
        mac.update(channel_binding);
        mac.update(joiner.as_bytes());
        *mac.finalize().as_bytes()
    }

    /// Compares in constant time.
    pub fn verifies(&self, proof: &[u8; 32], channel_binding: &[u8; 32], joiner: &NodeId) -> bool {
        blake3::Hash::from_bytes(self.proof(channel_binding, joiner)) == blake3::Hash::from_bytes(*proof)
    }
}

/// A node that answers joins, and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    pub node: NodeId,
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub cluster: ClusterId,
    pub id: TicketId,
    pub secret: TicketSecret,
    pub issuers: Vec<Issuer>,
}

impl Format for Ticket {
    const NAME: &'static str = "ticket";
    const VERSION: u8 = 1;
}

/// The text is not a ticket; nothing was tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTicketError {
    #[error("a ticket begins with {:?}", Ticket::PREFIX)]
    Prefix,
    #[error("the ticket has a character that tickets do not have, or was cut")]
    Encoding,
    #[error("the ticket was mistyped or cut: its checksum does not match")]
    Checksum,
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Enough to catch a slip of the mouse; the secret is what protects.
const CHECKSUM_BYTES: usize = 4;

impl Ticket {
    pub const PREFIX: &'static str = "atoll-ticket-";
    /// A ticket with 16 issuers of 8 addresses stays far below; more is not a ticket.
    const TEXT_BYTES_MAX: usize = 16 << 10;
}

pub(crate) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..CHECKSUM_BYTES].try_into().expect("a hash is longer than a checksum")
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.encode();
        bytes.extend(checksum(&bytes));
        write!(f, "{}{}", Self::PREFIX, data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.trim().strip_prefix(Self::PREFIX).ok_or(ParseTicketError::Prefix)?;
        if body.len() > Self::TEXT_BYTES_MAX {
            return Err(ParseTicketError::Encoding);
        }
        let bytes = data_encoding::BASE32_NOPAD
            .decode(body.to_ascii_uppercase().as_bytes())
            .map_err(|_| ParseTicketError::Encoding)?;
        let split = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(ParseTicketError::Encoding)?;
        let (ticket, sum) = bytes.split_at(split);
        if checksum(ticket) != sum {
            return Err(ParseTicketError::Checksum);
        }
        Ok(Ticket::decode(ticket)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            cluster: ClusterId([1; 16]),
            id: TicketId([2; 16]),
            secret: TicketSecret([3; 32]),
            issuers: vec![Issuer { node: NodeId([4; 32]), addresses: vec!["10.0.0.1:9002".into()] }],
        }
    }

    #[test]
    fn a_ticket_reads_back_what_it_printed() {
        assert_eq!(ticket().to_string().parse(), Ok(ticket()));
        assert_eq!(format!("  {}\n", ticket()).parse(), Ok(ticket()));
    }

    #[test]
    fn every_mistyped_character_and_every_cut_is_noticed() {
        let text = ticket().to_string();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let altered = String::from_utf8(bytes).unwrap();
            // The last character may carry unused bits, which the decoder insists are zero.
            assert!(altered.parse::<Ticket>().is_err(), "accepted {altered}");
            assert!(text[..at].parse::<Ticket>().is_err(), "accepted a cut at {at}");
        }
    }

    #[test]
    fn a_proof_holds_on_one_session_and_for_one_key() {
        let secret = ticket().secret;
        let (session, joiner) = ([7; 32], NodeId([8; 32]));
        let proof = secret.proof(&session, &joiner);
        assert!(secret.verifies(&proof, &session, &joiner));
        assert!(!secret.verifies(&proof, &[9; 32], &joiner));
        assert!(!secret.verifies(&proof, &session, &NodeId([9; 32])));
        assert!(!TicketSecret([0; 32]).verifies(&proof, &session, &joiner));
    }

    #[test]
    fn a_secret_is_never_printed_by_debug() {
        assert!(!format!("{:?}", ticket()).contains("3, 3"));
    }
}
