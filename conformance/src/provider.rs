//! The provider's group: opening, waiting, exchanging, renewing.

mod exchange;
mod open;
mod renew;
mod wait;

pub use exchange::*;
pub use open::*;
pub use renew::*;
pub use wait::*;
