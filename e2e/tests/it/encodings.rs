//! Every encoding and compression of the gateway, on real sockets, read by the decoders that
//! clients use: zlib, zstd and eetf of Rust, `zlib` and `zstandard` of Python as discord.py calls them,
//! zlib and zstd of Node.js (the latter where it has it), pako, fast-zlib and zlib-sync.

use std::{path::Path, process::Stdio};

use e2e::{
    client::{connect_tcp, identify, resume},
    cluster::{Cluster, Options, Shared},
    wait::NEVER,
    wire,
    world::{self, Account, INTENTS},
};
use futures_util::{SinkExt, StreamExt};
use guildhall_spec::encodings::{Big, Stream, from_etf, inflate_whole, to_etf};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command, sync::OnceCell};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::bots::discordjs;

static CLUSTER: Shared = Shared::new(Options {
    gateways: 2,
    ..Options::SMALL
});

/// Encoding, `compress` of the query, `compress` of IDENTIFY.
type Format = (&'static str, Option<&'static str>, bool);

const PLAIN: Format = ("json", None, false);
const ETF: Format = ("etf", None, false);
const ZLIB: Format = ("json", Some("zlib-stream"), false);
const FORMATS: [Format; 8] = [
    PLAIN,
    ("json", None, true),
    ZLIB,
    ("json", Some("zstd-stream"), false),
    // Payload compression gives way to that of the stream.
    ("json", Some("zstd-stream"), true),
    ETF,
    ("etf", Some("zlib-stream"), false),
    ("etf", Some("zstd-stream"), false),
];

/// A socket in one format.
struct Client {
    format: Format,
    socket: WebSocketStream<TcpStream>,
    stream: Stream,
    /// Binary messages as they came, and what they said.
    binary: Vec<(Vec<u8>, Vec<u8>)>,
    texts: usize,
}

impl Client {
    async fn open(url: &str, format: Format) -> Self {
        let (encoding, compress, _) = format;
        let mut url_of = format!("{url}/?encoding={encoding}&v=10");
        if let Some(compress) = compress {
            url_of += &format!("&compress={compress}");
        }
        let stream = connect_tcp(url).await.unwrap();
        let request = url_of.into_client_request().unwrap();
        let (socket, _) = client_async(request, stream).await.unwrap();
        Self {
            format,
            socket,
            stream: Stream::default(),
            binary: Vec::new(),
            texts: 0,
        }
    }

    async fn send(&mut self, payload: &Value) {
        let message = match self.format.0 {
            "etf" => Message::Binary(to_etf(payload).into()),
            _ => Message::Text(payload.to_string().into()),
        };
        self.socket.send(message).await.unwrap();
    }

    /// The next payload, or the code that the server closes with.
    async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = tokio::time::timeout(NEVER, self.socket.next())
                .await
                .expect("a payload");
            match message.expect("an open socket").unwrap() {
                Message::Text(text) => {
                    assert_eq!(self.format.0, "json", "text frames are for JSON");
                    assert_eq!(self.format.1, None, "a stream is binary");
                    self.texts += 1;
                    return Ok(json_payload(&text));
                }
                Message::Binary(bytes) => {
                    let text = self.unpack(&bytes);
                    self.binary.push((bytes.to_vec(), text.clone()));
                    return Ok(match self.format.0 {
                        "etf" => from_etf(&text, Big::Texts),
                        _ => json_payload(&String::from_utf8(text).unwrap()),
                    });
                }
                Message::Close(frame) => return Err(frame.map_or(0, |frame| frame.code.into())),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    fn unpack(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self.format {
            (_, Some("zlib-stream"), _) => self.stream.zlib(bytes),
            (_, Some("zstd-stream"), _) => self.stream.zstd(bytes),
            (_, _, true) => inflate_whole(bytes),
            _ => bytes.to_vec(),
        }
    }

    /// Reads on until this says yes; all payloads on the way come back, it included.
    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut read = Vec::new();
        loop {
            let payload = self.next().await;
            let payload = payload.unwrap_or_else(|code| panic!("closed with {code}: {read:#?}"));
            let found = wanted(&payload);
            read.push(payload);
            if found {
                return read;
            }
        }
    }

    async fn identify(&mut self, bot: &Account) {
        self.until(|payload| payload["op"] == 10).await;
        let mut payload = identify(&bot.token, Some(INTENTS), None);
        payload["d"]["compress"] = json!(self.format.2);
        self.send(&payload).await;
    }
}

fn is(name: &'static str) -> impl Fn(&Value) -> bool {
    move |payload| payload["t"] == name
}

fn json_payload(text: &str) -> Value {
    let frame = wire::parse(text).unwrap();
    json!({"t": frame.t, "s": frame.s, "op": frame.op, "d": frame.d})
}

/// What another program makes of recorded messages, in hex; `None` if it lacks its library.
async fn decoded(program: &Path, arguments: &[&str], client: &Client) -> Option<Vec<String>> {
    const NO_LIBRARY: i32 = 3;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = String::new();
    for (bytes, _) in &client.binary {
        lines += &hex(bytes);
        lines.push('\n');
    }
    let feeding = tokio::spawn(async move {
        // Fails where the program ends at once, which its exit code tells.
        let _ = stdin.write_all(lines.as_bytes()).await;
    });
    let output = child.wait_with_output().await.unwrap();
    feeding.await.unwrap();
    if output.status.code() == Some(NO_LIBRARY) {
        return None;
    }
    assert!(output.status.success(), "{program:?} {arguments:?} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(str::to_owned).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn python() -> &'static Path {
    static PYTHON: OnceCell<std::path::PathBuf> = OnceCell::const_new();
    PYTHON
        .get_or_init(|| async {
            let installed = tokio::task::spawn_blocking(xtask::install::decoders).await;
            installed.unwrap().unwrap()
        })
        .await
}

/// Bots of one guild, one for each format: identifying is limited per bot.
async fn bots(cluster: &Cluster) -> (Account, world::Guild, Vec<Account>) {
    let owner = world::human(cluster, "owner").await;
    let guild = owner.make_guild_on(cluster, 1, "house").await;
    let mut bots = Vec::new();
    for _ in FORMATS {
        let bot = owner.make_bot("bot").await;
        owner.add_bot(&guild, &bot).await;
        bots.push(bot);
    }
    (owner, guild, bots)
}

/// MESSAGE_CREATEs without what differs between bots.
fn messages(payloads: &[Value]) -> Vec<Value> {
    payloads
        .iter()
        .filter(|payload| payload["t"] == "MESSAGE_CREATE")
        .map(|payload| payload["d"].clone())
        .collect()
}

fn says(content: &'static str) -> impl Fn(&Value) -> bool {
    move |payload| payload["t"] == "MESSAGE_CREATE" && payload["d"]["content"] == content
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_format_says_the_same_to_every_decoder() {
    const MESSAGES: usize = 40;
    let cluster = CLUSTER.cluster().await;
    let (owner, guild, bots) = bots(&cluster).await;
    let mut clients = Vec::new();
    for (format, bot) in FORMATS.into_iter().zip(&bots) {
        let mut client = Client::open(&cluster.gateways[0].url(), format).await;
        client.identify(bot).await;
        let ready = client.until(is("READY")).await.pop().unwrap();
        assert_eq!(ready["s"], 1);
        assert_eq!(ready["d"]["user"]["id"], bot.id.as_str());
        client.until(is("GUILD_CREATE")).await;
        clients.push((client, ready["d"]["session_id"].clone()));
    }
    for n in 0..MESSAGES {
        let content = format!("message {n} of a “busy” guild \u{1F980} 1100000000000000001");
        owner.say(&guild.channel, &content).await;
        if n % 7 == 0 {
            for (client, _) in &mut clients {
                client.send(&json!({"op": 1, "d": null})).await;
            }
        }
    }
    owner.say(&guild.channel, "the last").await;

    let mut expected = None;
    for (client, _) in &mut clients {
        let read = client.until(says("the last")).await;
        let acks = read.iter().filter(|payload| payload["op"] == 11).count();
        assert!(acks >= MESSAGES / 7, "{acks} acknowledged");
        let dispatches: Vec<u64> = read
            .iter()
            .filter_map(|payload| payload["s"].as_u64())
            .collect();
        assert!(dispatches.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let messages = messages(&read);
        assert_eq!(messages.len(), MESSAGES + 1);
        assert_eq!(
            &messages,
            expected.get_or_insert_with(|| messages.clone()),
            "{:?}",
            client.format
        );
        let is_binary = client.format.0 == "etf" || client.format.1.is_some();
        assert!(is_binary == (client.texts == 0), "{:?}", client.format);
        // Of plain JSON with compressed payloads, GUILD_CREATE is worth it and messages are not.
        assert!(is_binary || client.binary.is_empty() != client.format.2);
        assert!(is_binary || client.texts > MESSAGES);
    }

    discordjs::install().await;
    for (client, _) in &clients {
        let (encoding, compress, of_payloads) = client.format;
        let kind = match compress {
            Some(compress) => compress,
            None if of_payloads => "payload",
            None => continue,
        };
        let said: Vec<String> = client.binary.iter().map(|(_, said)| hex(said)).collect();
        let arguments = ["decoders/decode.py", kind, encoding];
        let read = decoded(python().await, &arguments, client).await;
        assert_eq!(read.as_ref(), Some(&said), "{:?}", client.format);
        let libraries: &[&str] = match kind {
            "zlib-stream" => &["node", "pako", "fast-zlib", "zlib-sync"],
            "zstd-stream" => &["node-zstd"],
            _ => &["payload"],
        };
        for library in libraries {
            let arguments = ["discordjs/decode.js", *library];
            match decoded(Path::new("node"), &arguments, client).await {
                Some(read) => assert_eq!(read, said, "{library}, {:?}", client.format),
                // The one is compiled at its installation, which not every machine can; the other
                // came with Node.js 22.15.
                None => assert!(["zlib-sync", "node-zstd"].contains(library), "{library}"),
            }
        }
    }

    // A RESUME has a stream of its own, wherever the connection comes in.
    for ((client, session), bot) in clients.into_iter().zip(&bots) {
        let format = client.format;
        drop(client);
        for from in [2, 5, 20] {
            let mut client = Client::open(&cluster.gateways[0].url(), format).await;
            client.until(|payload| payload["op"] == 10).await;
            let payload = resume(&bot.token, session.as_str().unwrap(), from);
            client.send(&payload).await;
            let read = client.until(is("RESUMED")).await;
            assert_eq!(read[0]["s"], from + 1, "{format:?}");
            let all = expected.as_ref().unwrap();
            let replayed = messages(&read);
            assert!(
                !replayed.is_empty() && all.ends_with(&replayed),
                "{format:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_may_come_in_another_format() {
    let cluster = CLUSTER.cluster().await;
    let (owner, guild, bots) = bots(&cluster).await;
    let url = cluster.gateways[0].url();
    let bot = &bots[0];
    let mut client = Client::open(&url, ETF).await;
    client.identify(bot).await;
    let ready = client.until(is("READY")).await.pop().unwrap();
    client.until(is("GUILD_CREATE")).await;
    drop(client);
    owner.say(&guild.channel, "meanwhile").await;
    let session = ready["d"]["session_id"].as_str().unwrap();
    let mut client = Client::open(&url, ZLIB).await;
    client.until(|payload| payload["op"] == 10).await;
    client.send(&resume(&bot.token, session, 2)).await;
    client.until(says("meanwhile")).await;
    owner.say(&guild.channel, "and now").await;
    client.until(says("and now")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_encoding_is_refused_and_an_unknown_compression_is_none() {
    const DECODE_ERROR: u16 = 4002;
    let cluster = CLUSTER.cluster().await;
    let url = cluster.gateways[0].url();
    let closes = async |mut client: Client| loop {
        if let Err(code) = client.next().await {
            return code;
        }
    };
    let client = Client::open(&url, ("json&encoding=xml", None, false)).await;
    assert_eq!(
        closes(Client {
            format: PLAIN,
            ..client
        })
        .await,
        DECODE_ERROR
    );

    let mut client = Client::open(&url, ("json", Some("brotli"), false)).await;
    client.format = PLAIN;
    let hello = client.next().await.unwrap();
    assert_eq!((&hello["op"], client.texts), (&json!(10), 1));

    // JSON, nothing, an atom for a key, and more elements than there are bytes.
    let huge = [131, 108, 0xFF, 0xFF, 0xFF, 0xFF];
    let atom = [131, 116, 0, 0, 0, 1, 119, 2, b'o', b'p', 97, 1];
    for message in [&br#"{"op":1,"d":null}"#[..], b"", &huge, &atom] {
        let mut client = Client::open(&url, ETF).await;
        let message = Message::Binary(message.to_vec().into());
        client.socket.send(message).await.unwrap();
        assert_eq!(closes(client).await, DECODE_ERROR);
    }
}
