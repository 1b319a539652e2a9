//! Each stage of a backup on one thread, beside its library doing the same bytes in the same run: what the code around
//! the libraries costs.
//!
//! `cargo bench --bench stages -- [--data DIR] [--mib N] [--runs N] [--work DIR]`: the contents of the files below DIR,
//! or generated text and noise; N MiB of each (default 64); medians of N runs (default 5), ours and the library's in
//! turn; packs are written below the work directory (default: the system's temporary directory). Prints a Markdown
//! table. GB are 10⁹ bytes: of plaintext, and of packs for the stages `pack` and `write`.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use fastcdc::v2020::{FastCDC, Normalization};
use shadowvault::base::{ChunkId, Epoch, limit, random_bytes};
use shadowvault::chunker::{ChunkSizes, Cutter};
use shadowvault::crypto::{Codec, Kind, OVERHEAD_BYTES, Opener, Phrase, Salt, Sealer, Subject, VaultKeys};
use shadowvault::pack::{PackBuilder, SealedPack};
use shadowvault::store::Store;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The level of the default configuration.
const LEVEL: i32 = 3;
/// The sizes of the default configuration, as the library wants them.
const SIZES: (usize, usize, usize) = (16 << 10, 64 << 10, 256 << 10);

/// How many packs are built and written.
const PACKS: usize = 4;

struct Options {
    data: Option<PathBuf>,
    bytes: usize,
    runs: usize,
    work: PathBuf,
}

impl Options {
    fn read() -> Outcome<Self> {
        let mut options = Self { data: None, bytes: 64 << 20, runs: 5, work: std::env::temp_dir() };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{name} wants a value"));
            match name.as_str() {
                "--data" => options.data = Some(value()?.into()),
                "--mib" => options.bytes = value()?.parse::<usize>()?.max(1) << 20,
                "--runs" => options.runs = value()?.parse::<usize>()?.max(1),
                "--work" => options.work = value()?.into(),
                // Cargo says it to every benchmark.
                "--bench" => {}
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> Outcome<()> {
    let options = Options::read()?;
    println!("One thread, medians of {} runs, ours and the library's in turn.\n", options.runs);
    println!("| data | stage | ours GB/s | library | library GB/s | ours ÷ library |");
    println!("|---|---|--:|---|--:|--:|");
    match &options.data {
        Some(dir) => Bench::new("files", contents(dir, options.bytes)?, &options)?.run(),
        None => {
            Bench::new("text", text(options.bytes), &options)?.run()?;
            Bench::new("noise", noise(options.bytes), &options)?.run()
        }
    }
}

/// A chunk, sealed.
struct Sealed {
    id: ChunkId,
    codec: Codec,
    length: u32,
    bytes: Vec<u8>,
}

/// One kind of data, and what the stages make of it.
struct Bench<'a> {
    name: &'static str,
    options: &'a Options,
    keys: VaultKeys,
    cutter: Cutter,
    data: Vec<u8>,
    /// Where its chunks end.
    ends: Vec<usize>,
    sealed: Vec<Sealed>,
}

impl<'a> Bench<'a> {
    fn new(name: &'static str, data: Vec<u8>, options: &'a Options) -> Outcome<Self> {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let cutter = Cutter::new(ChunkSizes::new(SIZES.0, SIZES.1, SIZES.2)?, keys.chunker_seed().expose());
        let mut ends = Vec::new();
        while ends.last() != Some(&data.len()) {
            let start = ends.last().copied().unwrap_or(0);
            ends.push(start + cutter.cut(&data[start..]));
        }
        let mut bench = Self { name, options, keys, cutter, data, ends, sealed: Vec::new() };
        bench.sealed = bench.seal_all()?;
        Ok(bench)
    }

    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.data[*start..*end])
    }

    fn each<T>(&self, mut work: impl FnMut(&[u8]) -> T) {
        for plain in self.chunks() {
            std::hint::black_box(work(plain));
        }
    }

    fn seal_all(&self) -> Outcome<Vec<Sealed>> {
        let (mut sealer, salt) = (Sealer::new(Some(LEVEL))?, Salt::random());
        let seal = |plain: &[u8]| -> Outcome<Sealed> {
            let (id, mut bytes) = (self.keys.chunk_id(Kind::Data, plain), Vec::new());
            let made = sealer.seal(&self.keys, &salt, Kind::Data, id, plain, &mut bytes)?;
            Ok(Sealed { id, codec: made.codec, length: u32::try_from(plain.len())?, bytes })
        };
        self.chunks().map(seal).collect()
    }

    fn run(&self) -> Outcome<()> {
        self.cut();
        self.hash();
        self.compress()?;
        self.seal()?;
        self.open()?;
        self.pack();
        self.write()
    }

    fn cut(&self) {
        let ours = || {
            let mut rest = self.data.as_slice();
            while !rest.is_empty() {
                rest = &rest[self.cutter.cut(rest)..];
            }
        };
        let (min, avg, max) = SIZES;
        let theirs = || {
            let found = FastCDC::with_level(&self.data, min, avg, max, Normalization::Level1).count();
            std::hint::black_box(found);
        };
        self.race("cut", "fastcdc", ours, theirs);
    }

    fn hash(&self) {
        let ours = || self.each(|plain| self.keys.chunk_id(Kind::Data, plain));
        let theirs = || self.each(blake3::hash);
        self.race("hash", "BLAKE3", ours, theirs);
    }

    fn compress(&self) -> Outcome<()> {
        let (mut sealer, mut library, mut out) = (Sealer::new(Some(LEVEL))?, Library::new()?, Vec::new());
        let ours = || {
            self.each(|plain| {
                out.clear();
                sealer.append_payload(plain, &mut out).expect("memory for a chunk")
            });
        };
        let theirs = || self.each(|plain| library.compress(plain).len());
        self.race("compress", "zstd", ours, theirs);
        Ok(())
    }

    fn seal(&self) -> Outcome<()> {
        let (mut sealer, mut out, salt) = (Sealer::new(Some(LEVEL))?, Vec::new(), Salt::random());
        let ids: Vec<ChunkId> = self.sealed.iter().map(|sealed| sealed.id).collect();
        let mut ours = || {
            for (plain, id) in self.chunks().zip(&ids) {
                out.clear();
                sealer.seal(&self.keys, &salt, Kind::Data, *id, plain, &mut out).expect("sound memory");
            }
        };
        let mut library = Library::new()?;
        self.race("seal", "XChaCha20-Poly1305", &mut ours, || self.each(|plain| library.encrypt(plain)));
        // Everything that sealing does, the opening afterwards included, by the libraries alone.
        self.race("seal", "zstd, BLAKE3, XChaCha20-Poly1305, and back", ours, || {
            for plain in self.chunks() {
                let payload = library.compress(plain).to_vec();
                let payload = if payload.len() < plain.len() { payload.as_slice() } else { plain };
                std::hint::black_box(blake3::hash(payload));
                let tag = library.encrypt(payload);
                library.decrypt(&tag);
                library.decode(payload, plain.len());
                std::hint::black_box(blake3::hash(plain));
            }
        });
        Ok(())
    }

    fn open(&self) -> Outcome<()> {
        let mut opener = Opener::new();
        let mut ours = || {
            for sealed in &self.sealed {
                let (codec, id) = (sealed.codec, *sealed.id.as_bytes());
                let subject = Subject { epoch: Epoch(0), kind: Kind::Data, codec, id, length: sealed.length };
                opener.open(&self.keys, &subject, &sealed.bytes).expect("it was just sealed");
            }
        };
        // What the libraries are to open: payloads under a key of their own.
        let mut library = Library::new()?;
        let mut payloads = Vec::new();
        for plain in self.chunks() {
            let packed = library.compress(plain).to_vec();
            let payload = if packed.len() < plain.len() { packed } else { plain.to_vec() };
            let tag = library.encrypt(&payload);
            payloads.push((library.buffer.clone(), tag, payload, plain));
        }
        self.race("open", "XChaCha20-Poly1305", &mut ours, || {
            for (ciphertext, tag, _, _) in &payloads {
                library.buffer.clone_from(ciphertext);
                library.decrypt(tag);
            }
        });
        self.race("open", "XChaCha20-Poly1305, zstd, BLAKE3", ours, || {
            for (ciphertext, tag, payload, plain) in &payloads {
                library.buffer.clone_from(ciphertext);
                library.decrypt(tag);
                library.decode(payload, plain.len());
                std::hint::black_box(blake3::hash(plain));
            }
        });
        Ok(())
    }

    /// One full pack, of which `file` gets what is drained a MiB at a time; chunks are used again where there are not
    /// enough.
    fn build(&self, mut file: Option<&mut Vec<u8>>) -> SealedPack {
        let (mut builder, mut chunks) = (PackBuilder::new(Epoch(0)), self.sealed.iter().cycle().peekable());
        while let Some(sealed) =
            chunks.next_if(|sealed| builder.fits(sealed.bytes.len(), limit::PACK_BYTES_MAX))
        {
            builder.push(Kind::Data, sealed.codec, sealed.id, sealed.length, &sealed.bytes);
            if let Some(file) = &mut file
                && builder.pending() >= 1 << 20
            {
                let keep = |_, bytes: &[u8]| {
                    file.extend_from_slice(bytes);
                    Ok::<_, std::convert::Infallible>(())
                };
                builder.drain(keep).expect("memory for a pack");
            }
        }
        builder.finish(&self.keys).expect("it fits")
    }

    fn pack(&self) {
        let mut file = Vec::with_capacity(limit::PACK_BYTES_MAX);
        let ours = || {
            for _ in 0..PACKS {
                file.clear();
                std::hint::black_box(self.build(Some(&mut file)));
            }
        };
        let mut bytes = Vec::with_capacity(limit::PACK_BYTES_MAX);
        let theirs = || {
            for _ in 0..PACKS {
                bytes.clear();
                for sealed in self.sealed.iter().cycle() {
                    let room = limit::PACK_BYTES_MAX - bytes.len();
                    bytes.extend_from_slice(&sealed.bytes[..sealed.bytes.len().min(room)]);
                    if bytes.len() == limit::PACK_BYTES_MAX {
                        break;
                    }
                }
                std::hint::black_box(blake3::hash(&bytes));
            }
        };
        self.race_over(PACKS * limit::PACK_BYTES_MAX, "pack", "memcpy, BLAKE3", ours, theirs);
    }

    fn write(&self) -> Outcome<()> {
        let dir = self.options.work.join(format!("shadowvault-stages-{}", std::process::id()));
        let result = self.write_below(&dir);
        fs::remove_dir_all(&dir)?;
        result
    }

    fn write_below(&self, dir: &Path) -> Outcome<()> {
        let store = Store::create(&dir.join("store"))?;
        let packs: Vec<SealedPack> = (0..PACKS).map(|_| self.build(None)).collect();
        let ours = || {
            for pack in &packs {
                store.publish_pack(pack.id, &pack.rest, &pack.outboard).expect("room for packs");
            }
        };
        let theirs = || {
            for (number, pack) in packs.iter().enumerate() {
                let mut file = File::create(dir.join(number.to_string())).expect("room for packs");
                file.write_all(&pack.rest).and_then(|()| file.sync_data()).expect("room for packs");
            }
        };
        self.race_over(PACKS * limit::PACK_BYTES_MAX, "write", "write, fdatasync", ours, theirs);
        Ok(())
    }

    /// A row about the plaintext.
    fn race(&self, stage: &str, library: &str, ours: impl FnMut(), theirs: impl FnMut()) {
        self.race_over(self.data.len(), stage, library, ours, theirs);
    }

    /// Times both in turn and prints a row; each goes over `bytes`.
    fn race_over(
        &self,
        bytes: usize,
        stage: &str,
        library: &str,
        mut ours: impl FnMut(),
        mut theirs: impl FnMut(),
    ) {
        let rate = |seconds: &mut Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            bytes as f64 / seconds[seconds.len() / 2] / 1e9
        };
        let (mut our_seconds, mut their_seconds) = (Vec::new(), Vec::new());
        ours();
        theirs();
        for _ in 0..self.options.runs {
            our_seconds.push(seconds(&mut ours));
            their_seconds.push(seconds(&mut theirs));
        }
        let (ours, theirs) = (rate(&mut our_seconds), rate(&mut their_seconds));
        println!("| {} | {stage} | {ours:.2} | {library} | {theirs:.2} | {:.2} |", self.name, ours / theirs);
    }
}

fn seconds(work: &mut impl FnMut()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// The libraries as fast as they go: contexts and buffers used again.
struct Library {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    cipher: XChaCha20Poly1305,
    packed: Vec<u8>,
    plain: Vec<u8>,
    /// What was last encrypted.
    buffer: Vec<u8>,
}

impl Library {
    fn new() -> Outcome<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            decompressor: zstd::bulk::Decompressor::new()?,
            cipher: XChaCha20Poly1305::new(&Key::from(random_bytes::<32>())),
            packed: Vec::new(),
            plain: Vec::new(),
            buffer: Vec::with_capacity(SIZES.2 + OVERHEAD_BYTES),
        })
    }

    fn compress(&mut self, plain: &[u8]) -> &[u8] {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.packed).expect("memory for a chunk");
        &self.packed
    }

    /// The plaintext of `payload`, which is a frame unless it has the plaintext's length.
    fn decode(&mut self, payload: &[u8], length: usize) {
        if payload.len() < length {
            self.plain.clear();
            self.plain.reserve(length);
            self.decompressor.decompress_to_buffer(payload, &mut self.plain).expect("a sound frame");
        }
    }

    /// One nonce for all: nobody keeps what is encrypted here.
    fn encrypt(&mut self, payload: &[u8]) -> Tag {
        self.buffer.clear();
        self.buffer.extend_from_slice(payload);
        let sealed = self.cipher.encrypt_inout_detached(
            &XNonce::from([0; 24]),
            b"",
            self.buffer.as_mut_slice().into(),
        );
        sealed.expect("a chunk is short enough")
    }

    fn decrypt(&mut self, tag: &Tag) {
        let opened = self.cipher.decrypt_inout_detached(
            &XNonce::from([0; 24]),
            b"",
            self.buffer.as_mut_slice().into(),
            tag,
        );
        opened.expect("it was just encrypted");
    }
}

/// The contents of the files below `dir`, one after the other in the order of their names, up to `bytes`.
fn contents(dir: &Path, bytes: usize) -> Outcome<Vec<u8>> {
    let (mut data, mut waiting) = (Vec::with_capacity(bytes), vec![dir.to_owned()]);
    while let Some(path) = waiting.pop() {
        let left = (bytes - data.len()) as u64;
        let meta = path.symlink_metadata().map_err(|error| format!("{}: {error}", path.display()))?;
        let kind = meta.file_type();
        if kind.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&path)?.filter_map(Result::ok).map(|e| e.path()).collect();
            entries.sort_by(|a, b| b.cmp(a));
            waiting.extend(entries);
        } else if kind.is_file() && left > 0 {
            File::open(&path)?.take(left).read_to_end(&mut data)?;
        }
    }
    if data.is_empty() { Err(format!("no bytes in {}", dir.display()).into()) } else { Ok(data) }
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[1; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines of made-up words, which compress about as well as source code.
fn text(length: usize) -> Vec<u8> {
    let dice = noise(length);
    let word = |number: u16| {
        let letters = blake3::hash(&(number % 4000).to_le_bytes());
        let letters = letters.as_bytes();
        letters[1..3 + usize::from(letters[0] % 8)].iter().map(|byte| b'a' + byte % 22).collect::<Vec<u8>>()
    };
    let words: Vec<Vec<u8>> = (0..4000).map(word).collect();
    let mut bytes = Vec::with_capacity(length + 16);
    for pair in dice.as_chunks::<2>().0 {
        let number = u16::from_le_bytes(*pair);
        bytes.extend_from_slice(&words[usize::from(number) % words.len()]);
        bytes.extend_from_slice(if number >= 60_000 { b";\n    " } else { b" " });
        if bytes.len() >= length {
            break;
        }
    }
    bytes.truncate(length);
    bytes
}
