//! Real servers, a fault proxy, the simulation and signals for ganger's tests.
