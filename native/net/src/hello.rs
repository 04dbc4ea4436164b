//! The first words of a connection: the dialler's hello, the listener's welcome or refusal.
//!
//! Invariant: they come after both certificates were verified, and what a hello claims is compared
//! with what the certificate proved; only over plain loopback is the claim all there is. The magic and
//! the versions keep their places in every later version.

use crate::frame::{Frame, Type, VERSION, WORD_LEN_MAX};
use crate::{ClusterId, Limits, NetError, NodeName, Peer, Purpose, Reason, Refusal, Role};

const MAGIC: &[u8; 8] = b"MACULALN";
const MESSAGE_LEN_MAX: usize = 200;

/// What the dialler says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub version_min: u8,
    pub version_max: u8,
    pub purpose: u8,
    pub from: Peer,
    /// Whom it dialled.
    pub to: NodeName,
    /// Longest answer that it takes, bytes.
    pub answer_len_max: u32,
}

/// What the listener answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub version: u8,
    pub from: Peer,
    /// Longest request, bytes.
    pub request_len_max: u32,
    /// Requests without an answer.
    pub calls_max: u32,
    /// Bytes of them.
    pub calls_bytes_max: u32,
}

impl Hello {
    pub fn new(from: Peer, to: NodeName, purpose: Purpose, limits: &Limits) -> Self {
        let answer_len_max = limits.frame_len_max;
        Self { version_min: VERSION, version_max: VERSION, purpose: purpose as u8, from, to, answer_len_max }
    }

    pub fn encode(&self) -> Frame {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([self.version_min, self.version_max, self.purpose]);
        put_peer(&mut bytes, &self.from);
        put_name(&mut bytes, &self.to);
        bytes.extend(self.answer_len_max.to_le_bytes());
        Frame::new(Type::Hello, 0, bytes)
    }

    /// Of a frame's payload. A dialler that speaks later versions, too, may say more than this one knows.
    ///
    /// # Errors
    /// [`NetError::Refused`] when there is no common version; [`NetError::Malformed`].
    pub fn decode(payload: &[u8]) -> Result<Self, NetError> {
        let mut bytes = Fields(payload);
        if bytes.take::<8>()? != *MAGIC {
            return Err(NetError::Malformed("no hello".into()));
        }
        let [version_min, version_max] = bytes.take()?;
        if !(version_min..=version_max).contains(&VERSION) {
            // what follows is of a version that we do not know
            let message =
                format!("another version of the protocol: theirs={version_min}..{version_max} ours={VERSION}");
            return Err(NetError::Refused(Refusal::new(Reason::Version, message)));
        }
        let [purpose] = bytes.take()?;
        let hello = Self {
            version_min,
            version_max,
            purpose,
            from: bytes.peer()?,
            to: bytes.name()?,
            answer_len_max: u32::from_le_bytes(bytes.take()?),
        };
        bytes.end_unless(version_max > VERSION)?;
        Ok(hello)
    }

    /// Whether it is welcome, as far as its own words go: what it is for. `proven` is what its
    /// certificate says, `own` who listens.
    pub fn judge(&self, proven: &Peer, own: &Peer) -> Result<Purpose, Refusal> {
        let refused = |reason, message: String| Err(Refusal::new(reason, message));
        if proven.cluster != own.cluster || self.from.cluster != own.cluster {
            let theirs = if proven.cluster == own.cluster { self.from.cluster } else { proven.cluster };
            return refused(Reason::Cluster, format!("another cluster: theirs={theirs} ours={}", own.cluster));
        }
        if self.from != *proven {
            return refused(Reason::Node, format!("not the node that its certificate names: {}", proven.node));
        }
        if self.to != own.node {
            return refused(Reason::Target, format!("dialled another node: dialled={} this={}", self.to, own.node));
        }
        match (Purpose::of(self.purpose), proven.role) {
            (None, _) => refused(Reason::Purpose, format!("unknown purpose: {}", self.purpose)),
            (Some(purpose @ (Purpose::Raft | Purpose::Bulk)), Role::Client) => {
                refused(Reason::Purpose, format!("not for the role of a client: {purpose:?}"))
            }
            (Some(purpose), Role::Member | Role::Client) => Ok(purpose),
        }
    }
}

impl Welcome {
    pub fn new(from: Peer, limits: &Limits) -> Self {
        Self {
            version: VERSION,
            from,
            request_len_max: limits.frame_len_max,
            calls_max: limits.calls_max,
            calls_bytes_max: limits.calls_bytes(),
        }
    }

    pub fn encode(&self) -> Frame {
        let mut bytes = vec![self.version];
        put_peer(&mut bytes, &self.from);
        for number in [self.request_len_max, self.calls_max, self.calls_bytes_max] {
            bytes.extend(number.to_le_bytes());
        }
        Frame::new(Type::Welcome, 0, bytes)
    }

    pub fn decode(payload: &[u8]) -> Result<Self, NetError> {
        let mut bytes = Fields(payload);
        let [version] = bytes.take()?;
        let from = bytes.peer()?;
        let mut number = || bytes.take().map(u32::from_le_bytes);
        let (request_len_max, calls_max, calls_bytes_max) = (number()?, number()?, number()?);
        bytes.end_unless(false)?;
        if version != VERSION || calls_max == 0 || calls_bytes_max < request_len_max {
            return Err(NetError::Malformed("welcome with numbers that cannot be".into()));
        }
        Ok(Self { version, from, request_len_max, calls_max, calls_bytes_max })
    }
}

/// A refusal as a frame.
pub(crate) fn encode_refusal(refusal: &Refusal) -> Frame {
    let mut bytes = vec![refusal.reason.code()];
    let mut end = refusal.message.len().min(MESSAGE_LEN_MAX);
    while !refusal.message.is_char_boundary(end) {
        end -= 1;
    }
    bytes.extend(&refusal.message.as_bytes()[..end]);
    Frame::new(Type::Refused, 0, bytes)
}

/// The other side's words, made safe to print.
pub(crate) fn decode_refusal(payload: &[u8]) -> Refusal {
    let (code, message) = payload.split_first().unwrap_or((&0, &[]));
    let message = String::from_utf8_lossy(&message[..message.len().min(MESSAGE_LEN_MAX)]);
    Refusal::new(Reason::of(*code), message.replace(char::is_control, "?"))
}

pub(crate) fn word_len_max(of: Type, due: &[Type]) -> Option<u32> {
    due.contains(&of).then_some(WORD_LEN_MAX)
}

fn put_name(bytes: &mut Vec<u8>, name: &NodeName) {
    bytes.push(name.as_bytes().len() as u8);
    bytes.extend(name.as_bytes());
}

fn put_peer(bytes: &mut Vec<u8>, peer: &Peer) {
    bytes.push(peer.role as u8);
    bytes.extend(peer.cluster.0);
    put_name(bytes, &peer.node);
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NetError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or_else(short)?;
        self.0 = rest;
        Ok(*field)
    }

    fn name(&mut self) -> Result<NodeName, NetError> {
        let [len] = self.take()?;
        let (name, rest) = self.0.split_at_checked(usize::from(len)).ok_or_else(short)?;
        self.0 = rest;
        NodeName::new(name).map_err(|error| NetError::Malformed(error.to_string()))
    }

    fn peer(&mut self) -> Result<Peer, NetError> {
        let [role] = self.take()?;
        let role = Role::of(role).ok_or_else(|| NetError::Malformed(format!("role={role}")))?;
        let cluster = ClusterId(self.take()?);
        Ok(Peer { node: self.name()?, role, cluster })
    }

    fn end_unless(&self, more: bool) -> Result<(), NetError> {
        match self.0.is_empty() || more {
            true => Ok(()),
            false => Err(NetError::Malformed("more than its fields".into())),
        }
    }
}

fn short() -> NetError {
    NetError::Malformed("shorter than its fields".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &[u8], role: Role, cluster: u8) -> Peer {
        Peer { node: NodeName::new(name).expect("allowed"), role, cluster: ClusterId([cluster; 16]) }
    }

    fn hello() -> Hello {
        let from = peer(b"a", Role::Member, 1);
        Hello::new(from, NodeName::new(b"b").expect("allowed"), Purpose::Raft, &Limits::raft())
    }

    #[test]
    fn words_come_back_as_they_went_and_no_shorter_ones_do() {
        let bytes = hello().encode().payload;
        assert_eq!(Hello::decode(&bytes).expect("good"), hello());
        let welcome = Welcome::new(peer(b"b", Role::Member, 1), &Limits::raft());
        let other = welcome.encode().payload;
        assert_eq!(Welcome::decode(&other).expect("good"), welcome);
        for len in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..len]).is_err(), "{len}");
        }
        for len in 0..other.len() {
            assert!(Welcome::decode(&other[..len]).is_err(), "{len}");
        }
        assert!(Hello::decode(&[&bytes[..], b"x"].concat()).is_err());
        let later = Hello::decode(b"MACULALN\x02\x03what a later version says");
        assert!(matches!(later, Err(NetError::Refused(refusal)) if refusal.reason == Reason::Version));
        let refusal = Refusal::new(Reason::Stale, "ä".repeat(150));
        let back = decode_refusal(&encode_refusal(&refusal).payload);
        assert_eq!((back.reason, back.message), (Reason::Stale, "ä".repeat(100)));
        assert_eq!(decode_refusal(b"\xffa\nb").message, "a?b");
    }

    #[test]
    fn each_false_word_is_refused_for_its_own_reason() {
        let (a, own) = (peer(b"a", Role::Member, 1), peer(b"b", Role::Member, 1));
        let judge = |change: &dyn Fn(&mut Hello), proven: &Peer| {
            let mut hello = hello();
            change(&mut hello);
            hello.judge(proven, &own).map_err(|refusal| refusal.reason)
        };
        assert_eq!(judge(&|_| (), &a), Ok(Purpose::Raft));
        let client = peer(b"a", Role::Client, 1);
        for (change, proven, reason) in [
            (&(|_: &mut Hello| ()) as &dyn Fn(&mut Hello), &peer(b"a", Role::Member, 2), Reason::Cluster),
            (&|hello| hello.from.cluster = ClusterId([2; 16]), &a, Reason::Cluster),
            (&|_| (), &peer(b"c", Role::Member, 1), Reason::Node),
            (&|_| (), &client, Reason::Node),
            (&|hello| hello.to = NodeName::new(b"c").expect("allowed"), &a, Reason::Target),
            (&|hello| hello.purpose = 9, &a, Reason::Purpose),
            (&|hello| hello.from.role = Role::Client, &client, Reason::Purpose),
        ] {
            assert_eq!(judge(change, proven), Err(reason));
        }
        let bulk = |hello: &mut Hello| (hello.from.role, hello.purpose) = (Role::Client, Purpose::Bulk as u8);
        assert_eq!(judge(&bulk, &client), Err(Reason::Purpose));
        let own_purpose = |hello: &mut Hello| (hello.from.role, hello.purpose) = (Role::Client, Purpose::Client as u8);
        assert_eq!(judge(&own_purpose, &client), Ok(Purpose::Client));
    }
}
