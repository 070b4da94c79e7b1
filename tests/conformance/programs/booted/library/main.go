// The standard library, its assembly above all; each line says what it computed.
package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/adler32"
	"hash/crc32"
	"hash/crc64"
	"hash/fnv"
	"hash/maphash"
	"io"
	"math"
	"math/big"
	"math/bits"
	"math/cmplx"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"text/template"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

func check(name string, f func() string) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Printf("%-12s PANIC %v\n", name, r)
		}
	}()
	fmt.Printf("%-12s %s\n", name, f())
}

func sum(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:8]) }

func main() {
	data := make([]byte, 70001)
	x := uint32(1)
	for i := range data {
		x = x*1664525 + 1013904223
		data[i] = byte(x >> 24)
	}
	text := strings.Repeat("the quick brown fox jumps over the lazy dog; ", 300)
	check("index", func() string {
		out := []int{}
		for _, n := range []string{"fox", "lazy dog; the", "dog; the quick brown fox", "zebra", "x", "", "the lazy dog; the quick brown fox jumps over the lazy dog; the quick brown", "azy", "quick brown fox jumps ov"} {
			out = append(out, strings.Index(text, n), strings.LastIndex(text, n), strings.Count(text, n), bytes.Index([]byte(text)[17:], []byte(n)), strings.Index(text+n+"zebra", n+"z"))
		}
		for i := 2; i < 64; i++ {
			hay := text[:i*3] + "#" + text[:i]
			out = append(out, strings.Index(hay, "#"+text[:i]))
		}
		return fmt.Sprint(out)
	})
	check("bytes", func() string {
		return fmt.Sprint(bytes.IndexByte(data, 0), bytes.Count(data, []byte{7}), bytes.Compare(data[:500], data[1:501]), bytes.Equal(data[:999], append([]byte{}, data[:999]...)), bytes.EqualFold([]byte("ABC"), []byte("abc")), len(bytes.Fields([]byte(text))), strings.ToUpper(text[:40]), strings.IndexAny(text, "zq"))
	})
	check("md5", func() string { s := md5.Sum(data); return hex.EncodeToString(s[:]) })
	check("sha1", func() string { s := sha1.Sum(data); return hex.EncodeToString(s[:]) })
	check("sha256", func() string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) })
	check("sha512", func() string { s := sha512.Sum512(data); return hex.EncodeToString(s[:]) })
	check("hmac", func() string {
		m := hmac.New(sha256.New, []byte("key"))
		m.Write(data)
		return hex.EncodeToString(m.Sum(nil))
	})
	check("crc32", func() string {
		return fmt.Sprintf("%08x %08x %08x", crc32.ChecksumIEEE(data), crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)), crc32.Checksum(data[:100], crc32.MakeTable(crc32.Koopman)))
	})
	check("crc64", func() string {
		f := fnv.New64a()
		f.Write(data)
		return fmt.Sprintf("%016x %08x %016x", crc64.Checksum(data, crc64.MakeTable(crc64.ECMA)), adler32.Checksum(data), f.Sum64())
	})
	check("maphash", func() string {
		var h maphash.Hash
		h.Write(data)
		a := h.Sum64()
		h.Reset()
		h.Write(data)
		return fmt.Sprint(a == h.Sum64())
	})
	check("aes", func() string {
		block, _ := aes.NewCipher(data[:32])
		gcm, _ := cipher.NewGCM(block)
		sealed := gcm.Seal(nil, data[:12], data[:5000], data[:13])
		back, err := gcm.Open(nil, data[:12], sealed, data[:13])
		ctr := make([]byte, 3000)
		cipher.NewCTR(block, data[:16]).XORKeyStream(ctr, data[:3000])
		cbc := make([]byte, 320)
		cipher.NewCBCEncrypter(block, data[:16]).CryptBlocks(cbc, data[:320])
		return sum(sealed) + " " + sum(back) + fmt.Sprint(err) + sum(ctr) + sum(cbc)
	})
	check("rc4", func() string {
		c, _ := rc4.NewCipher([]byte("key"))
		o := make([]byte, 999)
		c.XORKeyStream(o, data[:999])
		return sum(o)
	})
	check("ed25519", func() string {
		key := ed25519.NewKeyFromSeed(data[:32])
		s := ed25519.Sign(key, data[:100])
		return sum(s) + fmt.Sprint(ed25519.Verify(key.Public().(ed25519.PublicKey), data[:100], s))
	})
	check("ecdsa", func() string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err.Error()
		}
		h := sha256.Sum256(data)
		s, err := ecdsa.SignASN1(rand.Reader, key, h[:])
		return fmt.Sprint(err, ecdsa.VerifyASN1(&key.PublicKey, h[:], s))
	})
	check("rsa", func() string {
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			return "1024 bits: an error"
		}
		c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, []byte("secret"), nil)
		if err != nil {
			return err.Error()
		}
		p, err := rsa.DecryptOAEP(sha256.New(), nil, key, c, nil)
		return fmt.Sprint(string(p), err)
	})
	check("big", func() string {
		a, b := new(big.Int).Exp(big.NewInt(7), big.NewInt(3001), nil), new(big.Int).Exp(big.NewInt(3), big.NewInt(2001), nil)
		q, r := new(big.Int).QuoRem(a, b, new(big.Int))
		m := new(big.Int).Exp(big.NewInt(3), b, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 521), big.NewInt(1)))
		return sum([]byte(q.String()+r.String()+m.String()+new(big.Int).Sqrt(a).String())) + new(big.Float).SetPrec(200).Quo(big.NewFloat(1), big.NewFloat(3)).Text('g', 50) + new(big.Rat).SetFrac64(22, 7).FloatString(30)
	})
	check("math", func() string {
		var b strings.Builder
		for _, v := range []float64{0.1, 1.5, 2.718281828, -3.7, 1e10, 1e-10, 123456.789} {
			for _, f := range []func(float64) float64{math.Sin, math.Cos, math.Tan, math.Exp, math.Exp2, math.Log, math.Log2, math.Log10, math.Log1p, math.Sqrt, math.Cbrt, math.Floor, math.Ceil, math.Trunc, math.Round, math.RoundToEven, math.Gamma, math.Erf, math.Atan, math.Sinh, math.Tanh, math.Asinh} {
				fmt.Fprintf(&b, "%v ", f(v))
			}
			fmt.Fprintf(&b, "%v %v %v %v %v\n", math.Pow(v, 1.7), math.Hypot(v, 2), math.FMA(v, v, -1), math.Mod(v, 0.7), float32(v)*float32(v))
		}
		fmt.Fprint(&b, cmplx.Sqrt(complex(-3, 4)), cmplx.Exp(1i), math.MaxUint32, math.Inf(1), math.NaN())
		return sum([]byte(b.String()))
	})
	check("bits", func() string {
		out := []any{}
		for _, v := range []uint64{0, 1, 0xdeadbeef, 1 << 63, ^uint64(0), 0x0123456789abcdef} {
			hi, lo := bits.Mul64(v, 0xfedcba9876543210)
			s, c := bits.Add64(v, lo, 1)
			out = append(out, bits.OnesCount64(v), bits.LeadingZeros64(v), bits.TrailingZeros64(v), bits.Reverse64(v), bits.ReverseBytes64(v), bits.RotateLeft64(v, 13), hi, lo, s, c)
		}
		return sum([]byte(fmt.Sprint(out...)))
	})
	check("compress", func() string {
		var g, z, f bytes.Buffer
		w := gzip.NewWriter(&g)
		w.Write(data)
		w.Write([]byte(text))
		w.Close()
		zw, _ := zlib.NewWriterLevel(&z, 9)
		zw.Write([]byte(text))
		zw.Close()
		fw, _ := flate.NewWriter(&f, 1)
		fw.Write(data)
		fw.Close()
		r, _ := gzip.NewReader(&g)
		back, err := io.ReadAll(r)
		return fmt.Sprint(sum(back), err, sum(z.Bytes()), sum(f.Bytes()))
	})
	check("encoding", func() string {
		var b bytes.Buffer
		type T struct {
			A int                `json:"a"`
			B []string           `json:"b"`
			C map[string]float64 `json:"c"`
			D *T                 `json:"d,omitempty"`
		}
		v := T{1, []string{"x", "<y>"}, map[string]float64{"p": 1.5, "q": -2e30}, &T{A: 2}}
		j, _ := json.Marshal(v)
		var back T
		err := json.Unmarshal(j, &back)
		gob.NewEncoder(&b).Encode(v)
		var g T
		err2 := gob.NewDecoder(&b).Decode(&g)
		return fmt.Sprint(string(j), err, reflect.DeepEqual(v, back), err2, reflect.DeepEqual(v, g), base64.StdEncoding.EncodeToString(data[:33]), binary.BigEndian.Uint64(data), json.Unmarshal([]byte("{"), &g))
	})
	check("regexp", func() string {
		re := regexp.MustCompile(`(\w+) (fox|dog)(;?)`)
		return fmt.Sprint(re.FindAllStringSubmatchIndex(text[:200], -1), re.ReplaceAllString(text[:60], "$2-$1"), regexp.MustCompile(`^(a+)+$`).MatchString(strings.Repeat("a", 2000)+"b"))
	})
	check("sort", func() string {
		s := make([]int, 5000)
		for i := range s {
			s[i] = int(binary.LittleEndian.Uint32(data[i*4:]))
		}
		sort.Ints(s)
		w := strings.Fields(text)
		sort.Strings(w)
		return fmt.Sprint(sort.IntsAreSorted(s), s[0], s[4999], w[0], w[len(w)-1])
	})
	check("strconv", func() string {
		f, err := strconv.ParseFloat("1.7976931348623157e308", 64)
		_, err2 := strconv.Atoi("12x")
		return fmt.Sprint(f, err, err2, strconv.FormatFloat(0.1, 'e', 30, 64), strconv.Quote("a\x00ü\n"), strconv.FormatInt(-1<<63, 36))
	})
	check("text", func() string {
		var b bytes.Buffer
		template.Must(template.New("t").Parse(`{{range $i, $e := .}}{{if $i}}, {{end}}{{$e | printf "%q"}}{{end}}`)).Execute(&b, []string{"a", "b"})
		w := tabwriter.NewWriter(&b, 5, 0, 1, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "\na\tbbb\tc")
		w.Flush()
		return strconv.Quote(b.String())
	})
	check("utf", func() string {
		s := strings.Repeat("aé世𝄞\xff", 50)
		return fmt.Sprint(utf8.RuneCountInString(s), utf8.ValidString(s), len(utf16.Encode([]rune(s))), strings.ToValidUTF8(s, "?")[:20], len([]rune(s)))
	})
	check("time", func() string {
		t := time.Date(2024, 2, 29, 12, 30, 0, 0, time.UTC)
		d, _ := time.ParseDuration("1h15m30.918s")
		a := time.Now()
		time.Sleep(3 * time.Millisecond)
		timer := time.NewTimer(time.Millisecond)
		<-timer.C
		n := 0
		tick := time.NewTicker(100 * time.Microsecond)
		for range tick.C {
			if n++; n == 5 {
				break
			}
		}
		return fmt.Sprint(t.Add(d).Format(time.RFC1123), time.Since(a) >= 4*time.Millisecond, t.YearDay(), t.Weekday())
	})
	check("sync", func() string {
		var wg sync.WaitGroup
		var n atomic.Int64
		var m sync.Map
		var mu sync.RWMutex
		var once sync.Once
		pool := sync.Pool{New: func() any { return new(int) }}
		cond, ready := sync.NewCond(&mu), false
		for i := 0; i < 50; i++ {
			wg.Add(1)
			go func(i int) {
				defer wg.Done()
				for j := 0; j < 100; j++ {
					n.Add(1)
					p := pool.Get().(*int)
					*p = j
					pool.Put(p)
					mu.RLock()
					mu.RUnlock()
					runtime.Gosched()
				}
				m.Store(i, i*i)
				once.Do(func() { mu.Lock(); ready = true; cond.Broadcast(); mu.Unlock() })
			}(i)
		}
		mu.Lock()
		for !ready {
			cond.Wait()
		}
		mu.Unlock()
		wg.Wait()
		c := 0
		m.Range(func(k, v any) bool { c += v.(int); return true })
		return fmt.Sprint(n.Load(), c)
	})
	check("runtime", func() string {
		before := runtime.NumGoroutine()
		debug.SetGCPercent(10)
		keep := [][]byte{}
		for i := 0; i < 2000; i++ {
			keep = append(keep, make([]byte, 1000+i))
			if i%7 == 0 {
				keep = keep[:len(keep)/2]
			}
		}
		runtime.GC()
		debug.FreeOSMemory()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		_, file, line, ok := runtime.Caller(0)
		return fmt.Sprint(before >= 1, s.NumGC > 2, filepath.Base(file), line > 0, ok, len(debug.Stack()) > 100)
	})
	check("errors", func() string {
		_, err := os.ReadFile("/no/such")
		_, err2 := os.Stat("/proc/self/exe")
		var pe *os.PathError
		return fmt.Sprint(err, errors.Is(err, os.ErrNotExist), errors.As(err, &pe), err2 == nil || err2 != nil)
	})
	check("nil", func() string {
		defer func() { fmt.Print("recovered ", recover() != nil, " ") }()
		var p *int
		return fmt.Sprint(*p)
	})
	check("bufio", func() string {
		s := bufio.NewScanner(strings.NewReader(text))
		s.Split(bufio.ScanWords)
		n := 0
		for s.Scan() {
			n++
		}
		return fmt.Sprint(n)
	})
	fmt.Println("done")
}
