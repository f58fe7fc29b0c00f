//! What restarts, is killed or hangs, each with a stream running: it goes on, or comes back to the same name and address.

use std::time::Duration;

use privnet::agent::views::CheckStatus;
use privnet_tests::lab::docker::IMAGE;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{process, say, wait_until};
use rustix::process::Signal;

use super::Scene;

/// A container that is told its name and its address: the rest of its address is its network's.
const TOLD: [&str; 3] = ["privnet.app=fixed", "privnet.type=db", "privnet.address="];
const OF_SHOP: [&str; 3] = ["shop 1.backend.demo", "shop 1.db.fixed", "shop 1.web.eager-web"];

impl Scene {
    pub fn a_container_that_restarts_is_who_it_was(&self) {
        let subnet = self.member("demo").member.address.octets();
        let address = format!("{}.{}.{}.77", subnet[0], subnet[1], subnet[2]);
        let run = || {
            let told = TOLD.map(|option| format!(",driver-opt={option}")).concat();
            self.docker.start_container("db", &format!("--restart always --network name=shop{told}{address}"));
        };
        let steady = self.steady();
        run();
        self.wait_until_members(&OF_SHOP);
        let before = self.member("fixed").member;
        assert_eq!(before.address.to_string(), address);
        let pings = self.pings(before.address);
        let dies = || {
            let process = self.pid("db");
            self.kill_process("db");
            wait_until("Docker has started it again", || !["0", &*process].contains(&&*self.pid("db")));
        };
        let is_killed = || {
            self.docker.run("kill db");
            self.wait_until_members(&[OF_SHOP[0], OF_SHOP[2]]);
            self.docker.run("start db");
        };
        let is_connected_anew = || {
            self.docker.run("network disconnect shop db");
            self.wait_until_members(&[OF_SHOP[0], OF_SHOP[2]]);
            let told = TOLD.map(|option| format!("--driver-opt {option}")).join(" ");
            self.docker.run(&format!("network connect {told}{address} shop db"));
        };
        let is_made_anew = || {
            self.docker.run("rm --force db");
            self.wait_until_members(&[OF_SHOP[0], OF_SHOP[2]]);
            run();
        };
        let restarts = || drop(self.docker.run("restart -t 0 db eager_web"));
        let rows: [(&str, &dyn Fn()); 5] = [
            ("it is restarted", &restarts),
            ("its process dies", &dies),
            ("it is killed and started", &is_killed),
            ("it is disconnected and connected", &is_connected_anew),
            ("it is removed by force and made anew", &is_made_anew),
        ];
        for (what, event) in rows {
            say(&format!("{what}:"));
            event();
            self.wait_until_members(&OF_SHOP);
            let after = self.member("fixed").member;
            assert_eq!((after.address, &after.hostname), (before.address, &before.hostname), "{what}");
            pings.flow();
            self.wait_until_found("eager_web", "db.fixed", &address);
        }
        steady.finish_whole();
    }

    pub fn an_agent_that_was_killed_goes_on(&self) {
        let address = self.member("fixed").member.address;
        let (steady, pings) = (self.steady(), self.pings(address));
        self.host.kill();
        pings.flow();
        self.host.start();
        self.host.wait_until_settled();
        self.host.stop();
        pings.flow();
        self.host.start();
        self.host.wait_until_settled();
        self.docker.run("network connect bank db");
        self.docker.run("network disconnect bank db");
        pings.finish_whole();
        steady.finish_whole();
        // What leaves while no agent runs is noticed by the next one.
        self.host.kill();
        self.kill_process("backend");
        self.host.start();
        self.wait_until_members(&OF_SHOP[1..]);
    }

    /// dockerd waits for an answer for ever: until the agent goes on, or is killed.
    pub fn an_agent_that_is_stopped_keeps_dockers_calls_waiting_and_nothing_else(&self) {
        let (steady, pings) = (self.steady(), self.pings(self.member("fixed").member.address));
        process::kill(self.host.pid(), Signal::STOP);
        let mut waits = self.docker.begin(&format!("run --rm --network shop {IMAGE} busybox true"));
        let checks = self.checks();
        for check in [&checks.agent, &checks.plugin] {
            assert_eq!(check.status, CheckStatus::Fail);
            assert!(check.detail.contains("has answered nothing for"), "{check:?}");
            assert!(check.remedy.contains("systemctl restart privnet"), "{check:?}");
        }
        assert_eq!(checks.containers.status, CheckStatus::Ok);
        self.inside("db", "busybox true");
        pings.flow();
        assert!(waits.try_wait().expect("it is there").is_none(), "nobody has answered");
        process::kill(self.host.pid(), Signal::CONT);
        let output = waits.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.wait_until_members(&OF_SHOP[1..]);
        pings.finish_whole();
        steady.finish_whole();
    }

    pub fn a_container_that_docker_gave_up_is_named_with_what_starts_it(&self) {
        self.docker.start_container("always", "--restart always --network shop");
        let checks = self.checks();
        assert_eq!((checks.plugin.status, checks.containers.status), (CheckStatus::Ok, CheckStatus::Ok));
        self.docker.run("stop -t 0 always");
        assert_eq!(self.checks().containers.status, CheckStatus::Ok, "the twin: a user has stopped it");
        self.host.kill();
        let refused = self.docker.attempt("start always");
        assert!(!refused.status.success(), "without an agent it does not start");
        let checks = self.checks();
        let (plugin, containers) = (checks.plugin, checks.containers);
        assert!(plugin.status == CheckStatus::Fail && plugin.remedy.contains("privnet-docker.socket"), "{plugin:?}");
        assert_eq!((containers.status, &*containers.remedy), (CheckStatus::Fail, "docker start always"));
        self.host.start();
        self.docker.run(containers.remedy.trim_start_matches("docker "));
        let checks = self.checks();
        assert_eq!((checks.plugin.status, checks.containers.status), (CheckStatus::Ok, CheckStatus::Ok));
        self.docker.run("rm --force always");
    }

    /// It ends its containers, and the next one starts those that it restarts.
    pub fn a_dockerd_that_is_ended_starts_again_what_it_restarts(&mut self) {
        let labels = "--label privnet.app=demo --label privnet.type=backend";
        self.docker.run("rm --force backend");
        self.docker.start_container("backend", &format!("--network shop {labels}"));
        self.docker.run("network connect bank backend");
        let (steady, pings) = (self.steady(), self.pings(self.member("fixed").member.address));
        self.docker.end_daemon(Signal::TERM);
        self.wait_until_members(&[]);
        self.docker.start_daemon("--live-restore");
        self.wait_until_members(&OF_SHOP[1..2]);
        pings.flow();
        self.docker.run("start eager_web backend");
        steady.finish_whole();
    }

    /// With `live-restore`; before 29.7 dockerd crashes of plugins that move the devices themselves.
    pub fn containers_talk_on_while_dockerd_is_killed_or_ended(&mut self) {
        let all = ["bank 1.backend.demo", OF_SHOP[0], OF_SHOP[1], OF_SHOP[2]];
        self.wait_until_members(&all);
        let address = self.member("demo").member.address;
        let (web, backend) = (self.space("eager_web"), self.space("backend"));
        self.wait_until_found_without_dockerd();
        let echo = Server::echo(&backend, 7);
        let stream = Stream::start(&web, (address, 7), Duration::from_millis(10));
        let pings = self.pings(self.member("fixed").member.address);
        stream.flows();
        let process = self.pid("db");
        self.docker.end_daemon(Signal::KILL);
        stream.flows();
        pings.flow();
        // One that dies meanwhile leaves at the next one's start, and comes again.
        self.host.space.run(&format!("kill -9 {process}"));
        self.docker.start_daemon("--live-restore");
        wait_until("Docker has started it again", || !["0", &*process].contains(&&*self.pid("db")));
        self.wait_until_members(&all);
        pings.flow();
        stream.flows();
        self.wait_until_found_without_dockerd();
        drop(pings);
        let pings = self.pings(self.member("fixed").member.address);
        self.docker.end_daemon(Signal::TERM);
        stream.flows();
        self.docker.start_daemon("--live-restore");
        stream.flows();
        let daemon = self.docker.daemon();
        self.docker.run("network disconnect bank backend");
        self.docker.run("network connect bank backend");
        self.wait_until_members(&all);
        pings.finish_whole();
        stream.finish_whole();
        drop(echo);
        web.remove();
        backend.remove();
        self.docker.run("stop -t 0 backend");
        self.wait_until_members(&all[2..]);
        self.docker.run("start backend");
        self.wait_until_members(&all);
        assert_eq!(self.docker.daemon(), daemon);
        self.docker.run("version");
        let address = self.member("demo").member.address.to_string();
        self.assert_reaches("eager_web", &address);
    }

    /// Without `live-restore`: the next one ends what runs, and starts what it restarts.
    pub fn a_dockerd_that_was_killed_starts_again_what_it_restarts(&mut self) {
        let labels = "--restart always --network shop --label privnet.app=always";
        self.docker.run(&self.asking("always", labels));
        let [backend, db, web] = OF_SHOP;
        self.wait_until_members(&["bank 1.backend.demo", backend, db, "shop 1.web.always", web]);
        let pings = self.pings(self.member("fixed").member.address);
        self.docker.end_daemon(Signal::KILL);
        self.docker.start_daemon("");
        self.wait_until_members(&[db, "shop 1.web.always"]);
        pings.flow();
        let address = self.docker.inspect("always", ".NetworkSettings.Networks.shop.IPAddress");
        self.docker.run("start eager_web backend");
        self.wait_until_members(&["bank 1.backend.demo", backend, db, "shop 1.web.always", web]);
        self.assert_reaches("eager_web", &address);
        self.wait_until_found("eager_web", "always", &address);
        // dockerd's API is silent while it starts what it restarts, and the agent knows all the same whose namespace it is.
        let said = self.docker.run("logs always");
        if self.makes_the_namespace_first() {
            assert!(said.contains(&format!("{address} ")) && !said.contains("nobody"), "{said}");
        }
        self.docker.run("rm --force always");
    }
}
