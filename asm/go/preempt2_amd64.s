// asyncPreempt2 (runtime/preempt.go, since 1.14): Go code that calls machine code in the middle.
// Its decisions are gates into Python; the call, the frame and the stack switch are real.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"
#include "funcdata.h"

// The Go continuation of asyncPreempt, called as an ABI0 function.
// The frame is as large as Go's: asyncPreemptStack is computed from it. Since 1.26 that counts
// xRegRestore's, too, which asyncPreempt2 calls.
#ifdef go1_26
#define FRAME 64
#else
#define FRAME 16
#endif

TEXT runtime·asyncPreempt2(SB), NOSPLIT, $FRAME-0
	NO_LOCAL_POINTERS
	// The ABI0 wrapper's part: g in R14, X15 zero.
	get_tls(CX)
	MOVQ	g(CX), R14
#ifdef go1_17
	XORPS	X15, X15
#endif
#ifdef go1_26
	// mcall(func1): xRegSave, then preemptPark or gopreempt_m.
	MOVQ	$runtime·asyncPreempt2·func1·f(SB), AX
#else
	CALL	runtime·asyncPreempt2·begin(SB)	// AX = the func value to call
#endif
	MOVQ	AX, 0(SP)
	CALL	runtime·mcall(SB)
	CALL	runtime·asyncPreempt2·end(SB)	// xRegRestore; asyncSafePoint = false
	RET

// Func values of the gates that it gives to mcall.
#ifdef go1_26
DATA	runtime·asyncPreempt2·func1·f(SB)/8, $runtime·asyncPreempt2·func1(SB)
GLOBL	runtime·asyncPreempt2·func1·f(SB), RODATA|NOPTR, $8
#else
DATA	runtime·gopreempt_m·f(SB)/8, $runtime·gopreempt_m(SB)
GLOBL	runtime·gopreempt_m·f(SB), RODATA|NOPTR, $8
DATA	runtime·preemptPark·f(SB)/8, $runtime·preemptPark(SB)
GLOBL	runtime·preemptPark·f(SB), RODATA|NOPTR, $8
#endif
