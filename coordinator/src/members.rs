//! Which nodes there are and which are alive.

/// How nodes are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesConfig {
    /// host:port of each, or one name that resolves to all of them; names are asked again every 5 s.
    pub addresses: Vec<String>,
}
