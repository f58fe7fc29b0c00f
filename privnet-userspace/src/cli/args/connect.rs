//! The arguments of `privnet connect` and `privnet curl`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::socket::AgentSocket;
use super::whole::whole;

/// What `connect` accepts.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The network's id or name.
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The container, by a name of the network, full or short, or by its address; and its TCP port.
    #[arg(value_name = "HOST:PORT")]
    pub to: HostPort,
    /// Listen at this address of the host, and connect each connection that is made there; instead of stdin and stdout.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// The app that the member is of, whose types are names by themselves: with --app demo, backend is backend.demo
    /// [default: privnet].
    #[arg(long, value_name = "AP", value_parser = NonEmptyStringValueParser::new())]
    pub app: Option<String>,
    /// How long the container may take to accept [default: 15].
    #[arg(long, value_name = "SECONDS", value_parser = whole(1, 60), allow_negative_numbers = true)]
    pub timeout: Option<u32>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}

/// What `curl` accepts.
#[derive(Debug, Args)]
pub struct CurlArgs {
    /// The app that the member is of, whose types are names by themselves: with --app demo, backend is backend.demo
    /// [default: privnet].
    #[arg(long, value_name = "AP", value_parser = NonEmptyStringValueParser::new())]
    pub app: Option<String>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
    /// The network's id or name.
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// What curl is given: the URL, and then its own options.
    #[arg(value_name = "URL", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub arguments: Vec<OsString>,
}

/// A container, and a port of it: `backend.demo:8000`, `10.240.0.2:8000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: NonZeroU16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || "expected a name or an IPv4 address, and a port from 1 to 65535: backend.demo:8000".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        if host.is_empty() || host.contains([':', '/', '[', ']']) || host.contains(char::is_whitespace) {
            return Err(expected());
        }
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number).ok_or_else(expected)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Format, Verb};

    #[test]
    fn a_host_and_its_port_are_read_and_nothing_else_is() {
        for (text, host, port) in [
            ("backend.demo:8000", "backend.demo", 8000),
            ("1.web.ap-x.pn-y.private-network.internal.:1", "1.web.ap-x.pn-y.private-network.internal.", 1),
            ("10.240.0.2:65535", "10.240.0.2", 65535),
        ] {
            let expected = HostPort { host: host.to_owned(), port: port.try_into().expect("a port") };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "backend",
            "backend:",
            ":80",
            "backend:0",
            "backend:65536",
            "backend:+80",
            "backend:http",
            "a b:80",
            "http://backend:80",
            "[fd00::1]:80",
            "fd00::1:80",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_stands_behind_the_url_is_curls() {
        for (line, expected, format) in [
            ("privnet curl shop http://backend.demo:8000/", "http://backend.demo:8000/", Format::Table),
            ("privnet curl shop http://a/ -o json --socket x", "http://a/ -o json --socket x", Format::Table),
            ("privnet -o json curl --app demo shop http://a/ -v --help", "http://a/ -v --help", Format::Json),
            ("privnet curl shop -sS http://a/ --app b", "-sS http://a/ --app b", Format::Table),
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            let Verb::Curl(curl) = cli.verb else { panic!("not curl: {line}") };
            assert_eq!((curl.arguments.join(" ".as_ref()), cli.output), (expected.into(), format), "{line}");
            assert_eq!((curl.network.as_str(), curl.app.is_some()), ("shop", line.contains("curl --app")), "{line}");
        }
        assert!(Cli::try_parse_from(["privnet", "curl", "shop"]).is_err(), "without a URL");
        assert!(Cli::try_parse_from(["privnet", "connect", "shop"]).is_err(), "without a host");
    }
}
