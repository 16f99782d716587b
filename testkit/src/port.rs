//! Ports of loopback that are one test's alone.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket};

/// A port that the system gives to nobody else as long as this lives.
///
/// The socket is bound and does not listen: whoever connects is refused, and a server that sets `SO_REUSEADDR`, as
/// servers do, may listen there, end, and listen there again.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    /// A free one.
    pub(crate) fn reserve() -> io::Result<Self> {
        let socket = reusable()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Port { address: socket.local_addr()?, _held: socket })
    }

    /// Listens on a port that someone holds. Needs a runtime.
    pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
        let socket = reusable()?;
        socket.bind(address)?;
        socket.listen(1024)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn reusable() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reserved_port_refuses_until_someone_listens_there_and_again_after() {
        let port = Port::reserve().unwrap();
        for _ in 0..3 {
            assert_eq!(
                TcpStream::connect(port.address()).unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
            // std sets SO_REUSEADDR as well.
            let listener = TcpListener::bind(port.address()).unwrap();
            let stream = TcpStream::connect(port.address()).unwrap();
            drop(listener.accept().unwrap());
            drop((listener, stream));
        }
    }

    #[test]
    fn a_reserved_port_is_given_to_nobody_else() {
        let ports: Vec<Port> = (0..200).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(|port| port.address().port()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 200);
    }
}
