// The loop of the golang-nuts thread "How does isAsyncSafePoint check preemptable?" (2020):
// main.main.func1 as Go compiled it without optimisation, byte for byte from t := 0 on where
// LOOPS is 1000000000. t and i live in memory, RAX only carries them: is it safe to preempt
// while RAX holds the one new value? Each of 30 goroutines counts t up by 2, LOOPS times.
//
// pushcall: goroutines=30 procs=2 expect=RAX:2*LOOPS

#include "textflag.h"

#ifndef LOOPS
#define LOOPS 200
#endif

TEXT main·main·func1(SB), 0, $24-0
	MOVQ	$0, 8(SP)	// t := 0
	MOVQ	$0, 16(SP)	// for i := 0
	JMP	test
test:
	CMPQ	16(SP), $LOOPS	// i < LOOPS
	JLT	body
	JMP	done
body:
	MOVQ	8(SP), AX	// t += 2
	ADDQ	$2, AX
	MOVQ	AX, 8(SP)
	JMP	next
next:
	MOVQ	16(SP), AX	// i++
	INCQ	AX
	MOVQ	AX, 16(SP)
	JMP	test
done:
	MOVQ	8(SP), AX	// t, for whoever looks at the goroutine's last registers
	RET
