//! The only writing connection.

use std::thread::JoinHandle;

use super::{Job, StoreError};

/// Owns the only writing connection.
pub struct Writer {}

impl Writer {
    /// Waits for the next job; `None` once all handles are gone. For the simulation, which then calls [`Writer::step`].
    pub async fn recv(&mut self) -> Option<Job> {
        unimplemented!()
    }

    /// Carries out `first` and everything that waits behind it. After an error nothing more is done or acknowledged.
    pub fn step(&mut self, _first: Job) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Steps until all handles are gone (`Ok`) or a final error.
    pub fn run(self) -> Result<(), StoreError> {
        unimplemented!()
    }
}

/// Runs the writer on a thread of its own; `on_fatal` is called on it after a final error.
pub fn spawn_writer(_writer: Writer, _on_fatal: impl FnOnce(StoreError) + Send + 'static) -> JoinHandle<()> {
    unimplemented!()
}
