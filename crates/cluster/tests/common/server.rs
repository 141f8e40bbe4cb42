//! A server on loopback that gives every question the same answer.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// What a server does with a question.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status and a body.
    Body(u16, Vec<u8>),
    /// Nothing, for as long as the other side waits.
    Silence,
    /// A body without end.
    Endless,
    /// It is at another address.
    Elsewhere(String),
}

pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<AtomicUsize>,
    questions: mpsc::Receiver<String>,
}

impl Server {
    pub(crate) fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let (sender, questions) = mpsc::channel();
        let count = asked.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, sender, count) = (answer.clone(), sender.clone(), count.clone());
                thread::spawn(move || serve(stream.unwrap(), &answer, &sender, &count));
            }
        });
        Self {
            url,
            asked,
            questions,
        }
    }

    /// How many questions there were.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The body of the next question.
    pub(crate) fn question(&self) -> String {
        self.questions
            .recv_timeout(Duration::from_secs(30))
            .unwrap()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &Answer,
    sender: &mpsc::Sender<String>,
    count: &AtomicUsize,
) {
    while let Some(question) = read(&mut stream) {
        count.fetch_add(1, Ordering::SeqCst);
        let _ = sender.send(question);
        match answer {
            Answer::Body(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                if stream.write_all(&[head.as_bytes(), body].concat()).is_err() {
                    return;
                }
            }
            Answer::Silence => {
                // Until the other side gives up.
                let _ = stream.read(&mut [0]);
                return;
            }
            Answer::Elsewhere(url) => {
                let head =
                    format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(head.as_bytes()).is_err() {
                    return;
                }
            }
            Answer::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n");
                while stream.write_all(&[b' '; 4096]).is_ok() {}
                return;
            }
        }
    }
}

/// The body of one request.
fn read(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}
