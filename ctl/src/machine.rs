//! Which nodes are "this machine's": those whose key is here and whose `peer` host is an address of this machine.

use std::net::{IpAddr, ToSocketAddrs};

use messagebase_config::{Address, Config, pki};

/// The nodes of this machine, in the configuration's order.
pub fn nodes_here(config: &Config) -> Vec<u16> {
    let local = local_addresses();
    let ours = config.nodes.iter().filter(|node| {
        pki::node_key(&config.pki_dir, node.id).exists() && is_here(&resolve(&node.peer), &local)
    });
    ours.map(|node| node.id).collect()
}

/// The addresses that a host stands for; none if it can't be looked up.
fn resolve(address: &Address) -> Vec<IpAddr> {
    let found = (address.host.as_str(), address.port).to_socket_addrs();
    found
        .map(|all| all.map(|address| address.ip().to_canonical()).collect())
        .unwrap_or_default()
}

/// Whether one of a host's addresses is one of this machine.
fn is_here(host: &[IpAddr], local: &[IpAddr]) -> bool {
    host.iter().any(|ip| ip.is_loopback() || local.contains(ip))
}

/// The addresses of this machine's interfaces; none if the system doesn't say.
fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| {
                address
                    .as_sockaddr_in6()
                    .map(|v6| IpAddr::V6(v6.ip()).to_canonical())
            })
        });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_own_addresses_are_here() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let local = [ip("10.0.0.5"), ip("fe80::1")];
        assert!(is_here(&[ip("127.0.0.1")], &local));
        assert!(
            is_here(&[ip("10.0.0.9"), ip("10.0.0.5")], &local),
            "one of several is enough"
        );
        assert!(!is_here(&[ip("10.0.0.9")], &local));
        assert!(
            !is_here(&[], &local),
            "a name that can't be looked up is elsewhere"
        );
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        assert!(local_addresses().iter().any(IpAddr::is_loopback));
        assert!(
            resolve(&"127.0.0.1:1".parse().expect("an address"))
                .contains(&IpAddr::from([127, 0, 0, 1]))
        );
    }
}
