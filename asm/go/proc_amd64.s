// What of runtime/proc.go sleeps or calls mcall: sysmon's loop, the sleep of stopm, Gosched.
// Decisions are gates into Python; calls, frames and system calls are real.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"
#include "funcdata.h"

// func futexsleep(addr *uint32, val uint32, ns int64): while *addr is val, at most ns; for ever if
// that is negative (runtime/os_linux.go).
TEXT runtime·futexsleep(SB), NOSPLIT, $64-24
	NO_LOCAL_POINTERS
	MOVQ	addr+0(FP), AX
	MOVQ	AX, 0(SP)
	MOVL	$128, 8(SP)	// op FUTEX_WAIT_PRIVATE
	MOVL	val+8(FP), AX
	MOVL	AX, 12(SP)
	MOVQ	$0, 16(SP)	// timeout: none
	MOVQ	$0, 24(SP)
	MOVQ	$0, 32(SP)
	MOVQ	ns+16(FP), AX
	TESTQ	AX, AX
	JLT	sleep
	XORL	DX, DX
	MOVL	$1000000000, CX
	DIVQ	CX
	MOVQ	AX, 48(SP)	// tv_sec
	MOVQ	DX, 56(SP)	// tv_nsec
	LEAQ	48(SP), AX
	MOVQ	AX, 16(SP)
sleep:
	CALL	runtime·futex(SB)
	RET

// sysmon's loop: sleeps 20 µs at a time, after 50 idle rounds twice as long each, up to 10 ms; and
// up to a minute, or until it is woken, while there is nothing to look after.
// 24(SP) idle rounds, 32(SP) delay in µs, 40(SP) the end of a deep sleep: proc_sysmon.py.
TEXT runtime·sysmon(SB), NOSPLIT, $48-0
	MOVQ	$0, 24(SP)
	MOVQ	$20, 32(SP)
	MOVQ	$0, 40(SP)
loop:
	MOVQ	24(SP), AX
	TESTQ	AX, AX
	JNE	idle
	MOVQ	$20, 32(SP)
	JMP	sleep
idle:
	CMPQ	AX, $50
	JLS	sleep
	SHLQ	$1, 32(SP)
	CMPQ	32(SP), $10000
	JLS	sleep
	MOVQ	$10000, 32(SP)
sleep:
	MOVQ	32(SP), AX
	MOVQ	AX, 0(SP)
	CALL	runtime·usleep(SB)
work:
	CALL	runtime·sysmon·work(SB)	// AX = what the round was
	INCQ	24(SP)
	TESTL	AX, AX
	JEQ	loop	// 0: nothing was retaken
	CMPL	AX, $2
	JEQ	deep	// 2: there is nothing to look after
	JHI	anew	// 3: nothing was retaken after a deep sleep
	MOVQ	$0, 24(SP)	// 1: a P was retaken
	JMP	loop
anew:
	MOVQ	$1, 24(SP)
	MOVQ	$20, 32(SP)
	JMP	loop
deep:
	DECQ	24(SP)	// the round is not over
	MOVQ	BX, 0(SP)	// addr
	MOVQ	$0, 8(SP)	// val
	MOVQ	CX, 16(SP)	// ns
	CALL	runtime·futexsleep(SB)
	JMP	work

// A dedicated mark worker: gcBgMarkWorker·work does what there is to do up to where suspendG waits
// for a goroutine. AX says how it waits: 0 there is nothing to do, 1 procyield(10), 2 osyield(),
// 3 notetsleep(BX, 100 µs).
TEXT runtime·gcBgMarkWorker(SB), NOSPLIT, $24-0
loop:
	CALL	runtime·gcBgMarkWorker·work(SB)
	CMPL	AX, $2
	JEQ	yield
	JHI	note
	CMPL	AX, $1
	JEQ	spin
	MOVQ	$20, 0(SP)
	CALL	runtime·usleep(SB)
	JMP	loop
spin:
	MOVL	$10, AX
again:
	PAUSE
	SUBL	$1, AX
	JNZ	again
	JMP	loop
yield:
	CALL	runtime·osyield(SB)
	JMP	loop
note:
	MOVQ	BX, 0(SP)	// addr
	MOVQ	$0, 8(SP)	// val
	MOVQ	$100000, 16(SP)	// ns
	CALL	runtime·futexsleep(SB)
	JMP	loop

// The second mark worker, a goroutine: it marks while there is something, then parks.
TEXT runtime·gcBgMarkWorker·dedicated(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
mark:
	CALL	runtime·gcBgMarkWorker·drain(SB)	// AX as above, without 3
	CMPL	AX, $1
	JEQ	spin
	JHI	yield
	MOVQ	$runtime·gcBgMarkWorker·park·f(SB), AX
	MOVQ	AX, 0(SP)
	CALL	runtime·mcall(SB)
	JMP	mark
spin:
	MOVL	$10, AX
again:
	PAUSE
	SUBL	$1, AX
	JNZ	again
	JMP	mark
yield:
	CALL	runtime·osyield(SB)
	JMP	mark

// What a program that dies sleeps between its requests to stop (proc_freeze.py); the last call of
// freezetheworld·work does not return.
TEXT runtime·freezetheworld(SB), NOSPLIT, $8-0
loop:
	CALL	runtime·freezetheworld·work(SB)	// AX = µs
	MOVQ	AX, 0(SP)
	CALL	runtime·usleep(SB)
	JMP	loop

// An M without work sleeps on its park note until another M sets it, then goes on in stopm.
TEXT runtime·mPark(SB), NOSPLIT, $24-0
sleep:
	get_tls(CX)
	MOVQ	g(CX), R14
	MOVQ	g_m(R14), BX
	LEAQ	m_park(BX), AX
	CMPL	0(AX), $0
	JNE	woken
	MOVQ	AX, 0(SP)	// addr
	MOVQ	$0, 8(SP)	// val
	MOVQ	$-1, 16(SP)	// ns
	CALL	runtime·futexsleep(SB)
	JMP	sleep
woken:
	MOVL	$0, 0(AX)
	CALL	runtime·stopm·woken(SB)	// acquires m.nextp and schedules

// func Gosched(): for snippets that yield by themselves.
TEXT runtime·Gosched(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	// The ABI0 wrapper's part: g in R14, X15 zero.
	get_tls(CX)
	MOVQ	g(CX), R14
#ifdef go1_17
	XORPS	X15, X15
#endif
	MOVQ	$runtime·gosched_m·f(SB), AX
	MOVQ	AX, 0(SP)
	CALL	runtime·mcall(SB)
	RET

// Func values of the gates that mcall is given here and by goexit1.
DATA	runtime·gcBgMarkWorker·park·f(SB)/8, $runtime·gcBgMarkWorker·park(SB)
GLOBL	runtime·gcBgMarkWorker·park·f(SB), RODATA|NOPTR, $8
DATA	runtime·goexit0·f(SB)/8, $runtime·goexit0(SB)
GLOBL	runtime·goexit0·f(SB), RODATA|NOPTR, $8
DATA	runtime·gosched_m·f(SB)/8, $runtime·gosched_m(SB)
GLOBL	runtime·gosched_m·f(SB), RODATA|NOPTR, $8

// What os/signal and the handler share (runtime/sigqueue.go): note, mask, wanted, ignored, recv,
// a bit for each signal in the last four. sigsend sets mask, where wanted has the bit.
GLOBL	runtime·sig(SB), NOPTR, $64
