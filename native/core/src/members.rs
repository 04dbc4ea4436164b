//! The seam between whoever knows the cluster's members and whoever works with them.

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberAt {
    /// Its name.
    pub name: String,
    /// `host:port` at which it takes links; empty when it takes none.
    pub address: String,
}

/// The nodes of the cluster, as this one knows them now. Implemented by raft, used by mesh.
pub trait Members: Send + Sync {
    /// This node's name.
    fn own(&self) -> String;
    /// All of them, this one among them; none while it does not know. Must not wait.
    fn members(&self) -> Vec<MemberAt>;
}
