//! Every metric: its name, what it is, and what it means. All else that names metrics is held to it.

use crate::control::protocol::MetricType;

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// As Prometheus knows it, with its unit and, of a counter, `_total`.
    pub name: &'static str,
    pub kind: MetricType,
    pub group: Group,
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// What belongs together where people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Daemon,
    People,
    Messages,
    Latency,
    Handshakes,
    Closes,
    Load,
    Log,
    Operators,
    Process,
}

impl Group {
    pub fn as_str(self) -> &'static str {
        match self {
            Group::Daemon => "daemon",
            Group::People => "people",
            Group::Messages => "messages",
            Group::Latency => "latency",
            Group::Handshakes => "handshakes",
            Group::Closes => "closes",
            Group::Load => "load",
            Group::Log => "room log",
            Group::Operators => "operators",
            Group::Process => "process",
        }
    }
}

/// Units that a name may end with, before `_total`.
const UNITS: [&str; 2] = ["seconds", "bytes"];

impl Definition {
    /// The unit that the name ends with.
    pub fn unit(&self) -> Option<&'static str> {
        UNITS.into_iter().find(|unit| self.family().strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
    }

    /// The name without what OpenMetrics adds to it for its type.
    pub fn family(&self) -> &'static str {
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            MetricType::Gauge | MetricType::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}

/// The row of a metric.
pub fn find(name: &str) -> Option<&'static Definition> {
    ALL.iter().find(|row| row.name == name)
}

macro_rules! table {
    ($($group:ident { $($constant:ident $name:literal $kind:ident [$($label:literal),*] $help:literal;)* })*) => {
        $($(pub const $constant: Definition = Definition {
            name: $name,
            kind: MetricType::$kind,
            group: Group::$group,
            labels: &[$($label),*],
            help: $help,
        };)*)*
        /// The whole table, group by group.
        pub const ALL: &[Definition] = &[$($($constant),*),*];
    };
}

table! {
    Daemon {
        INFO "wschat_info" Info ["version"] "The running daemon.";
        START "wschat_start_time_seconds" Gauge [] "When the daemon started, since 1970.";
        SERVING "wschat_serving" Gauge []
            "1 while newcomers are let in, 0 while starting, draining or stopping.";
        STATE "wschat_state" Gauge ["state"] "1 for the state that the daemon is in, 0 for the others.";
        CERTIFICATE "wschat_certificate_expiry_time_seconds" Gauge []
            "When the certificate in force ends, since 1970; absent where no listener uses TLS.";
        RELOAD_GOOD "wschat_config_last_reload_successful" Gauge []
            "1 where the last reload, or the start, took the configuration over, 0 where it was refused.";
        RELOAD_TIME "wschat_config_last_reload_success_timestamp_seconds" Gauge []
            "When a configuration was last taken over, since 1970.";
        RELOADS "wschat_config_reloads_total" Counter ["result"] "Reloads, by what came of them: ok, failed.";
    }
    People {
        CLIENTS "wschat_clients" Gauge [] "Open WebSockets that the chat knows: echoes aside.";
        CLIENTS_MAX "wschat_clients_max" Gauge [] "The most WebSockets that are let in.";
        USERS "wschat_users" Gauge [] "Users who are here.";
        ROOMS "wschat_rooms" Gauge [] "Open rooms.";
        BANS "wschat_bans" Gauge [] "Bans in force.";
        MUTES "wschat_mutes" Gauge [] "Mutes in force.";
        CONNECTIONS "wschat_connections" Gauge ["worker", "dialect"] "Open WebSockets, by worker and dialect.";
        OPENED "wschat_connections_opened_total" Counter ["dialect"] "WebSockets that were opened, by dialect.";
    }
    Messages {
        MESSAGES "wschat_messages_total" Counter [] "Messages that rooms have stored since the start.";
        RECEIVED "wschat_received_messages_total" Counter [] "WebSocket messages from clients, of every kind.";
        RECEIVED_BYTES "wschat_received_bytes_total" Counter []
            "Payload bytes of WebSocket messages from clients.";
        DELIVERIES "wschat_deliveries_total" Counter []
            "WebSocket frames given to clients' outboxes: one for each client that a message goes to.";
        SENT_BYTES "wschat_sent_bytes_total" Counter [] "Bytes of the frames given to clients' outboxes.";
        RATE_LIMITED "wschat_rate_limited_messages_total" Counter []
            "Messages refused because their connection sent too many.";
    }
    Latency {
        ACK "wschat_ack_latency_seconds" Histogram []
            "From the hub hearing a message for a room, through its commit, to its acknowledgement (the text dialect has none) and the message itself going to the workers.";
        FANOUT "wschat_fanout_latency_seconds" Histogram []
            "From the hub's order to publish, to the last member of the room on a worker having been given it; one for each worker.";
    }
    Handshakes {
        ACCEPTED "wschat_sockets_accepted_total" Counter [] "Sockets that were accepted and let in.";
        RESET "wschat_sockets_reset_total" Counter []
            "Sockets reset unread: no descriptor was to spare, or their address had all it may have.";
        FAILURES "wschat_handshake_failures_total" Counter ["reason"]
            "Sockets that did not become clients, by reason: tls, tls_timeout, plain_http, request_timeout, bad_request, stalled, origin, forwarded (an unreadable address from a proxy), rate and address (429), full and draining (503), token (close 4001), no_hello (close 4002).";
        ANSWERS "wschat_http_responses_total" Counter ["code"]
            "HTTP requests, by the status they were answered with; 101 is an opened WebSocket.";
    }
    Closes {
        CLOSES "wschat_closed_connections_total" Counter ["code", "by"]
            "WebSockets that ended, by close code and by who began it: server, client, or nobody where the connection was lost (1006); a code that is none of ours is \"other\".";
        SLOW "wschat_slow_readers_total" Counter []
            "WebSockets closed because they read too slowly (close 4102).";
    }
    Load {
        BUSY "wschat_worker_busy_seconds_total" Counter ["worker"]
            "Seconds that each worker's thread has been on a processor; one a second is all it can.";
        HUB_BUSY "wschat_hub_busy_seconds_total" Counter [] "The same of the hub's thread.";
        QUEUE "wschat_queue_length" Gauge ["queue"]
            "What waits in a queue: messages of workers for the hub, requests for operators, batches for each worker.";
        QUEUE_MAX "wschat_queue_capacity" Gauge ["queue"] "The most that can wait in a queue.";
        OUTBOX "wschat_outbox_bytes" Gauge ["worker"] "Bytes that wait for clients to read them.";
    }
    Log {
        LOG_HEALTHY "wschat_log_healthy" Gauge []
            "1 while the room log can store, 0 while messages are refused.";
        LOG_COMMITS "wschat_log_commits_total" Counter [] "Commits of the room log, each of one or more entries.";
        LOG_TIME "wschat_log_commit_duration_seconds" Histogram []
            "How long a commit took, failed ones included; no samples where rooms are in memory.";
        LOG_ENTRIES "wschat_log_entries_total" Counter [] "Entries that the room log has committed.";
        LOG_REFUSED "wschat_log_refused_total" Counter []
            "Requests refused because the room log could not store.";
        LOG_WAITING "wschat_log_waiting_entries" Gauge [] "Entries that wait to be committed.";
        LOG_WAITING_BYTES "wschat_log_waiting_bytes" Gauge [] "Bytes of the entries that wait to be committed.";
        LOG_SIZE "wschat_log_size_bytes" Gauge [] "The room log on disk.";
        LOG_SIZE_MAX "wschat_log_size_max_bytes" Gauge []
            "What the room log on disk is kept within (history.max_size); absent where nothing bounds it.";
    }
    Operators {
        KICKS "wschat_kicks_total" Counter [] "Connections that operators have had closed.";
        NOTICES "wschat_notices_total" Counter [] "Notices that operators or backends have sent.";
        WATCHERS "wschat_events_watchers" Gauge [] "Who watches events or follows a room now.";
        MISSED "wschat_events_missed_total" Counter [] "Events that watchers were too slow for.";
    }
    Process {
        CPU "process_cpu_seconds_total" Counter [] "Seconds that all threads have been on processors.";
        RESIDENT "process_resident_memory_bytes" Gauge [] "Resident memory.";
        VIRTUAL "process_virtual_memory_bytes" Gauge [] "Virtual memory.";
        FDS "process_open_fds" Gauge [] "Open file descriptors; every connection is one.";
        FDS_MAX "process_max_fds" Gauge [] "The most file descriptors that may be open.";
        PROCESS_START "process_start_time_seconds" Gauge [] "When the process started, since 1970.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions_and_stand_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ALL.len());
        for row in ALL {
            let counter = row.kind == MetricType::Counter;
            assert_eq!(row.name.ends_with("_total"), counter, "{}", row.name);
            assert_eq!(row.name.ends_with("_info"), row.kind == MetricType::Info, "{}", row.name);
            assert!(row.name.starts_with("wschat_") || row.group == Group::Process, "{}", row.name);
            assert!(row.help.ends_with('.') && !row.help.contains('\n'), "{}", row.name);
            assert!(row.kind != MetricType::Histogram || row.unit() == Some("seconds"), "{}", row.name);
            for label in row.labels {
                // What strangers choose would be as many series as they like.
                assert!(!["user", "nick", "room", "address", "ip", "client"].contains(label), "{}", row.name);
            }
        }
    }
}
