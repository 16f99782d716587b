//! The server's side: TCP or a Unix socket.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::net::{
    TcpStream, UnixStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
    unix,
};

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Upstream::Tcp(address)
    }
}

impl From<PathBuf> for Upstream {
    fn from(path: PathBuf) -> Self {
        Upstream::Unix(path)
    }
}

impl From<&Path> for Upstream {
    fn from(path: &Path) -> Self {
        Upstream::Unix(path.to_owned())
    }
}

impl Upstream {
    pub(super) async fn connect(&self) -> io::Result<(Reader, Writer)> {
        match self {
            Upstream::Tcp(address) => split(TcpStream::connect(address).await?),
            Upstream::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                Ok((Reader::Unix(reader), Writer::Unix(writer)))
            }
        }
    }
}

/// Takes a TCP connection apart; each write goes out as it is.
pub(super) fn split(stream: TcpStream) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok((Reader::Tcp(reader), Writer::Tcp(writer)))
}

/// The half that is read.
pub(super) enum Reader {
    Tcp(OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// The half that is written. Dropped, it tells the other side that no more comes.
pub(super) enum Writer {
    Tcp(OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Reader {
    /// Waits for bytes, and answers how many there are: 0 at the end.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Reader::Tcp(half) => {
                    half.readable().await?;
                    half.try_read(buffer)
                }
                Reader::Unix(half) => {
                    half.readable().await?;
                    half.try_read(buffer)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

impl Writer {
    /// Waits until it would probably take bytes.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Writer::Tcp(half) => half.writable().await,
            Writer::Unix(half) => half.writable().await,
        }
    }

    /// Writes what it takes now; 0 if it takes nothing.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            Writer::Tcp(half) => half.try_write(bytes),
            Writer::Unix(half) => half.try_write(bytes),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }
}
