//! The pure state machine (stand-in while it is written elsewhere).
#![allow(missing_docs)]
use std::ops::ControlFlow;

pub trait View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), TableError>;
}
pub trait Table: View {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), TableError>;
    fn remove(&mut self, key: &[u8]) -> Result<(), TableError>;
}
#[derive(Debug, Clone)]
pub struct TableError(pub String);
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub revision: u64,
    pub time_ms: u64,
}
#[derive(Debug, Clone)]
pub struct Event {}
#[derive(Debug, Clone)]
pub struct Response(pub Vec<u8>);
impl Response {
    pub fn encode(&self) -> Vec<u8> {
        self.0.clone()
    }
}
pub struct Applied {
    pub response: Response,
    pub events: Vec<Event>,
}
#[derive(Debug)]
pub struct Command {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}
#[derive(Debug, thiserror::Error)]
#[error("malformed")]
pub struct MachineError;
impl Command {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1, self.key.len() as u8];
        out.extend(&self.key);
        out.extend(&self.value);
        out
    }
    pub fn decode(bytes: &[u8]) -> Result<Command, MachineError> {
        let [1, len, rest @ ..] = bytes else { return Err(MachineError) };
        let (key, value) = rest.split_at_checked(usize::from(*len)).ok_or(MachineError)?;
        Ok(Command { key: key.to_vec(), value: value.to_vec() })
    }
}
pub fn apply<T: Table>(table: &mut T, stamp: Stamp, command: &Command) -> Result<Applied, TableError> {
    table.put(&command.key, &command.value)?;
    Ok(Applied { response: Response(stamp.revision.to_le_bytes().to_vec()), events: vec![] })
}
