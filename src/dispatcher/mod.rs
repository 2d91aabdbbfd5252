pub mod files;
pub mod history;
pub mod queue;
