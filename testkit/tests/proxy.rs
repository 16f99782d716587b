//! The fault proxy: each switch does what it says, and has when its call returns.
#![allow(clippy::unwrap_used)]

use std::{io::ErrorKind, time::Duration};

use ganger_testkit::proxy::{Proxy, Way};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    time::{Instant, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers each byte with itself.
async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut from, mut to) = tokio::io::split(stream);
    // A client that is cut off is no fault here.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// A server that echoes, behind a proxy.
async fn echoing() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    Proxy::start(address)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// Sends it and reads it back.
async fn ask(client: &mut TcpStream, text: &str) -> String {
    client.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; text.len()];
    timeout(PATIENCE, client.read_exact(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

/// What comes until the connection ends, in order or not.
async fn rest(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    if let Err(error) = timeout(PATIENCE, client.read_to_end(&mut text)).await.expect("the connection ends") {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    String::from_utf8(text).unwrap()
}

/// Whether nothing has come yet.
fn is_silent(client: &TcpStream) -> bool {
    client.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[tokio::test]
async fn what_passes_is_passed_whole_and_counted() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    let large = "0123456789".repeat(100_000);
    let (mut from, mut to) = client.split();
    let mut answer = vec![0; large.len()];
    let (sent, read) = tokio::join!(to.write_all(large.as_bytes()), from.read_exact(&mut answer));
    sent.unwrap();
    read.unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), large);
    let seen = proxy.seen();
    assert_eq!((seen.connections, seen.open, seen.cuts, seen.swallowed), (1, 1, 0, 0));
    assert_eq!((seen.to_server, seen.to_client), (1_000_000, 1_000_000));
    drop(client);
    proxy.until("the end of the connection", |seen| seen.open == 0).await;
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "last words");
    proxy.until("the end of the connection", |seen| seen.open == 0).await;
}

#[tokio::test]
async fn a_unix_socket_is_a_server_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move { echo(listener.accept().await.unwrap().0).await });
    let proxy = Proxy::start(path);
    let mut client = connect(&proxy).await;
    assert_eq!(ask(&mut client, "hello").await, "hello");
    drop(client);
    timeout(PATIENCE, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_ends_where_there_is_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(folder.path().join("nobody"));
    assert_eq!(rest(&mut connect(&proxy).await).await, "");
    assert_eq!(proxy.until("the connection", |seen| seen.open == 0).await.connections, 1);
}

#[tokio::test]
async fn a_cut_ends_all_connections_and_no_later_one() {
    let proxy = echoing().await;
    let (mut one, mut two) = (connect(&proxy).await, connect(&proxy).await);
    assert_eq!(ask(&mut one, "a").await, "a");
    assert_eq!(ask(&mut two, "b").await, "b");
    proxy.cut();
    assert_eq!((rest(&mut one).await, rest(&mut two).await), (String::new(), String::new()));
    proxy.until("two ends", |seen| seen.open == 0 && seen.cuts == 1).await;
    assert_eq!(ask(&mut connect(&proxy).await, "c").await, "c");
}

#[tokio::test]
async fn nothing_passes_once_a_cut_has_returned() {
    let proxy = echoing().await;
    for _ in 0..50 {
        let mut client = connect(&proxy).await;
        assert_eq!(ask(&mut client, "a").await, "a");
        let before = proxy.seen();
        let write = client.try_write(b"too late");
        proxy.cut();
        let at_the_cut = proxy.seen();
        rest(&mut client).await;
        let after = proxy.until("the end", |seen| seen.open == 0).await;
        assert_eq!((after.to_server, after.to_client), (at_the_cut.to_server, at_the_cut.to_client));
        assert!(write.is_ok() && after.to_server <= before.to_server + 8);
    }
}

#[tokio::test]
async fn a_cut_after_some_bytes_lets_exactly_those_pass_and_happens_once() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    proxy.cut_after(Way::ToClient, 3);
    client.write_all(b"12345").await.unwrap();
    assert_eq!(rest(&mut client).await, "123");
    let seen = proxy.until("the cut", |seen| seen.cuts == 1 && seen.open == 0).await;
    assert_eq!((seen.to_server, seen.to_client), (5, 3));

    let mut client = connect(&proxy).await;
    assert_eq!(ask(&mut client, "12345").await, "12345");
    proxy.cut_after(Way::ToServer, 2);
    client.write_all(b"12345").await.unwrap();
    let echoed = rest(&mut client).await;
    assert!("12".starts_with(&echoed), "{echoed}");
    assert_eq!(proxy.until("the cut", |seen| seen.cuts == 2).await.to_server, 5 + 5 + 2);
}

#[tokio::test]
async fn a_reply_is_lost_after_its_command_ran() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    proxy.cut_after(Way::ToClient, 0);
    client.write_all(b"12345").await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    let seen = proxy.until("the cut", |seen| seen.cuts == 1).await;
    assert_eq!((seen.to_server, seen.to_client), (5, 0));
}

#[tokio::test]
async fn slices_are_writes_of_their_own() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    proxy.slice(1);
    proxy.cut_after(Way::ToClient, 4);
    // Each piece by itself: the budget is spent one by one, and what came before it is whole.
    client.write_all(b"123456").await.unwrap();
    assert_eq!(rest(&mut client).await, "1234");
    proxy.heal();
    let mut client = connect(&proxy).await;
    proxy.slice(1);
    let text = "0123456789".repeat(100);
    assert_eq!(ask(&mut client, &text).await, text);
}

#[tokio::test]
async fn a_delay_holds_each_piece_until_it_is_over_or_healed() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    let delay = Duration::from_millis(30);
    proxy.delay(delay);
    let start = Instant::now();
    assert_eq!(ask(&mut client, "a").await, "a");
    assert!(start.elapsed() >= 2 * delay, "once there and once back");

    proxy.delay(Duration::from_secs(3600));
    client.write_all(b"b").await.unwrap();
    assert!(is_silent(&client));
    proxy.heal();
    assert_eq!(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap(), b'b');
}

#[tokio::test]
async fn a_half_open_connection_swallows_one_way_and_is_cut_when_it_heals() {
    for way in [Way::ToServer, Way::ToClient] {
        let proxy = echoing().await;
        let (mut client, mut other) = (connect(&proxy).await, connect(&proxy).await);
        assert_eq!(ask(&mut client, "a").await, "a");
        assert_eq!(ask(&mut other, "b").await, "b");
        proxy.swallow(way);
        client.write_all(b"into the void").await.unwrap();
        let seen = proxy.until("the bytes", |seen| seen.swallowed == 13).await;
        assert_eq!((seen.open, seen.cuts), (2, 0));
        assert!(is_silent(&client));
        proxy.heal();
        assert_eq!(rest(&mut client).await, "");
        assert_eq!(ask(&mut other, "c").await, "c", "one that lost nothing goes on");
    }
}

#[tokio::test]
async fn who_connects_is_refused_until_it_heals_and_others_go_on() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    assert_eq!(ask(&mut client, "a").await, "a");
    for _ in 0..20 {
        proxy.refuse();
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(&mut client, "b").await, "b");
        proxy.heal();
        assert_eq!(ask(&mut connect(&proxy).await, "c").await, "c");
    }
}

#[tokio::test]
async fn a_black_hole_answers_nobody_and_loses_nothing() {
    let proxy = echoing().await;
    let mut client = connect(&proxy).await;
    assert_eq!(ask(&mut client, "a").await, "a");
    proxy.black_hole();
    client.write_all(b"b").await.unwrap();
    let mut other = connect(&proxy).await;
    other.write_all(b"c").await.unwrap();
    let seen = proxy.until("a second connection", |seen| seen.connections == 2).await;
    assert_eq!((seen.to_server, seen.to_client), (1, 1));
    assert!(is_silent(&client) && is_silent(&other));
    proxy.heal();
    assert_eq!(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap(), b'b');
    assert_eq!(timeout(PATIENCE, other.read_u8()).await.unwrap().unwrap(), b'c');
}

#[tokio::test]
async fn a_black_hole_keeps_the_end_of_the_server_secret() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap());
    let mut client = connect(&proxy).await;
    let (server, _) = listener.accept().await.unwrap();
    proxy.black_hole();
    drop(server);
    let silence = timeout(Duration::from_millis(50), client.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
    proxy.heal();
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_dropped_proxy_ends_its_connections_and_frees_its_port() {
    let proxy = echoing().await;
    let address = proxy.address();
    let mut client = connect(&proxy).await;
    assert_eq!(ask(&mut client, "a").await, "a");
    drop(proxy);
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn what_never_comes_is_named_with_what_came() {
    let proxy = echoing().await;
    let waited =
        tokio::spawn(async move { proxy.until("a third connection", |seen| seen.connections == 3).await });
    let message = waited.await.unwrap_err().into_panic();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("a third connection") && message.contains("connections: 0"), "{message}");
}
