// What of runtime/proc.go sleeps or calls mcall: sysmon's loop, the sleep of stopm, Gosched.
// Decisions are gates into Python; calls, frames and system calls are real.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"
#include "funcdata.h"

// sysmon's loop: sleeps 20 µs at a time, after 50 idle rounds twice as long each, up to 10 ms.
// 8(SP) idle rounds, 16(SP) delay in µs.
TEXT runtime·sysmon(SB), NOSPLIT, $24-0
	MOVQ	$0, 8(SP)
	MOVQ	$20, 16(SP)
loop:
	MOVQ	8(SP), AX
	TESTQ	AX, AX
	JNE	idle
	MOVQ	$20, 16(SP)
	JMP	sleep
idle:
	CMPQ	AX, $50
	JLS	sleep
	SHLQ	$1, 16(SP)
	CMPQ	16(SP), $10000
	JLS	sleep
	MOVQ	$10000, 16(SP)
sleep:
	MOVQ	16(SP), AX
	MOVQ	AX, 0(SP)
	CALL	runtime·usleep(SB)
	CALL	runtime·sysmon·work(SB)	// AX = what retake returned
	INCQ	8(SP)
	TESTL	AX, AX
	JEQ	loop
	MOVQ	$0, 8(SP)
	JMP	loop

// A dedicated mark worker: gcBgMarkWorker·work does what there is to do up to where suspendG waits
// for a goroutine. AX says how it waits: 0 there is nothing to do, 1 procyield(10), 2 osyield(),
// 3 notetsleep(BX, 100 µs).
TEXT runtime·gcBgMarkWorker(SB), NOSPLIT, $64-0
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
	MOVQ	$128, 8(SP)	// op FUTEX_WAIT_PRIVATE (int32), val 0 (uint32)
	MOVQ	$0, 48(SP)
	MOVQ	$100000, 56(SP)
	LEAQ	48(SP), AX
	MOVQ	AX, 16(SP)	// timeout
	MOVQ	$0, 24(SP)
	MOVQ	$0, 32(SP)
	CALL	runtime·futex(SB)
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
TEXT runtime·mPark(SB), NOSPLIT, $48-0
sleep:
	get_tls(CX)
	MOVQ	g(CX), R14
	MOVQ	g_m(R14), BX
	LEAQ	m_park(BX), AX
	CMPL	0(AX), $0
	JNE	woken
	MOVQ	AX, 0(SP)	// addr
	MOVQ	$128, 8(SP)	// op FUTEX_WAIT_PRIVATE (int32), val 0 (uint32)
	MOVQ	$0, 16(SP)	// timeout: none
	MOVQ	$0, 24(SP)
	MOVQ	$0, 32(SP)
	CALL	runtime·futex(SB)
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
