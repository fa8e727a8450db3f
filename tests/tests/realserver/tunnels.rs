//! Real TCP through tunnels of all four pairs. A packet socket and a loop that encapsulates packets
//! for the VIP stand for the director.

use std::{
    io::{Read as _, Write as _},
    mem::{size_of, zeroed},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use director_userspace::{
    kernel::net::Netlink,
    setup::{
        lab::{Lab, Node},
        realserver::RealServer,
    },
};
use nix::libc;

use super::frames::{frame, ip, protocol_of};

const TIMEOUT: Duration = Duration::from_secs(5);
/// More than a window, so that full-size segments are sent.
const UPLOAD: usize = 200_000;

const CONFIG: &str = r#"
services:
  - name: four
    address: 192.0.2.10
    protocol: tcp
    port: 80
    forward: tunnel
    backends: [{address: 10.0.0.11}]
  - name: six
    address: "2001:db8::10"
    protocol: tcp
    port: 80
    forward: tunnel
    backends: [{address: "2001:db8:1::11"}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn tcp_goes_through_all_four_pairs() {
    let config = director_userspace::policy::config::parse("test", CONFIG).expect("valid").config;
    let backend = ["10.0.0.11", "2001:db8:1::11"].map(|a| a.parse::<IpAddr>().expect(a));
    let name = format!("trs-{}-pairs", std::process::id());
    let builder = Lab::builder().name(&name).config(&config).host(&backend);
    let lab = builder.build().await.expect("a lab");
    let _server = lab.serve_http("b1").expect("serves");
    let (director, client) =
        (lab.node("director").expect("exists"), lab.node("client1").expect("exists"));
    let (macs, vips) = prepare(&lab).await;
    let netlink = Netlink::connect_in(lab.node("b1").expect("exists").netns()).expect("connects");
    let instance = lab.realserver_instance("b1");
    let real_server = RealServer::new(netlink, Some(&instance)).expect("a real server");
    let counted = async || {
        let status = real_server.status().await.expect("read");
        status.decapsulation.expect("accepts tunnels").packets["decapsulated"]
    };
    for vip in vips {
        for outer in backend {
            let source = director.addresses().iter().find(|a| a.is_ipv4() == outer.is_ipv4());
            let source = *source.expect("both families");
            let before = counted().await;
            let answer = forwarding(director, &macs, vip, (source, outer), || {
                client.run(|| post(SocketAddr::new(vip, 80))).expect("runs")
            });
            let answer = answer.unwrap_or_else(|e| panic!("{vip} through {outer}: {e}"));
            assert!(answer.starts_with("HTTP/1.1 200"), "{vip} through {outer}: {answer}");
            assert!(answer.ends_with("b1\n"), "{vip} through {outer}: {answer}");
            let packets = counted().await - before;
            assert!(packets > 100, "{vip} through {outer}: {packets} packets decapsulated");
        }
    }
}

/// The director's and the backend's MAC addresses, and the VIPs. The VIPs are removed from the
/// director's kernel, which would refuse the connections, and set as permanent neighbours on the
/// client.
async fn prepare(lab: &Lab) -> ([[u8; 6]; 2], [IpAddr; 2]) {
    let vips = ["192.0.2.10", "2001:db8::10"].map(|vip| vip.parse::<IpAddr>().expect(vip));
    let mut macs = Vec::new();
    for node in ["director", "b1"] {
        let netns = lab.node(node).expect("exists").netns();
        let netlink = Netlink::connect_in(netns).expect("connects");
        let eth0 = netlink.link_by_name("eth0").await.expect("eth0");
        if node == "director" {
            for vip in vips {
                let len = if vip.is_ipv4() { 32 } else { 128 };
                assert!(netlink.remove_address(eth0.index, vip, len).await.expect("removed"));
            }
        }
        macs.push(eth0.mac);
    }
    let client = lab.node("client1").expect("exists");
    let mac = macs[0].map(|byte| format!("{byte:02x}")).join(":");
    for vip in vips {
        let mut command = Command::new("ip");
        command.args(["neighbour", "replace", &vip.to_string(), "lladdr", &mac]);
        command.args(["dev", "eth0", "nud", "permanent"]);
        assert!(client.spawn(command).expect("ip").wait().expect("ends").success());
    }
    (macs.try_into().expect("two"), vips)
}

fn post(vip: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&vip, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {UPLOAD}\r\n");
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    stream.write_all(&vec![b'x'; UPLOAD])?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Forwards packets for the VIP into a tunnel while `work` runs.
fn forwarding<T>(
    director: &Node,
    [own_mac, backend_mac]: &[[u8; 6]; 2],
    vip: IpAddr,
    (source, outer): (IpAddr, IpAddr),
    work: impl FnOnce() -> T,
) -> T {
    let socket = director.run(packet_socket).expect("runs");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 4096];
            while !done.load(Ordering::Relaxed) {
                let Some(received) = receive(&socket, &mut buffer) else { continue };
                if received.get(..6) != Some(own_mac) || !is_for(received, vip) {
                    continue;
                }
                let packet = &received[14..];
                let outer = ip(source, outer, protocol_of(packet), packet);
                send(&socket, &frame(*backend_mac, *own_mac, &[], &outer));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn is_for(frame: &[u8], vip: IpAddr) -> bool {
    match vip {
        IpAddr::V4(v4) => frame[12..14] == [8, 0] && frame.get(30..34) == Some(&v4.octets()),
        IpAddr::V6(v6) => frame[12..14] == [0x86, 0xdd] && frame.get(38..54) == Some(&v6.octets()),
    }
}

/// A packet socket on the thread's eth0, with a receive timeout.
fn packet_socket() -> OwnedFd {
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain system calls; the structures outlive the calls and their sizes are their own.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(every_protocol));
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = libc::if_nametoindex(c"eth0".as_ptr()) as i32;
        assert_ne!(address.sll_ifindex, 0, "no eth0");
        let bound = libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32);
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        let timeout = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        let set = libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as u32,
        );
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        socket
    }
}

/// Receives a frame, or none within the timeout.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: the buffer has the given length.
    let len =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    buffer.get(..usize::try_from(len).ok()?)
}

fn send(socket: &OwnedFd, frame: &[u8]) {
    // SAFETY: the buffer has the given length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    assert_eq!(
        usize::try_from(sent).ok(),
        Some(frame.len()),
        "{}",
        std::io::Error::last_os_error()
    );
}
